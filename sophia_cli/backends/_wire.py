"""The small print of HTTP: how long to wait, how much to read, through which proxy, on what sockets."""

import socket
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import urlsplit

import aiohttp

from sophia_cli.backends._chat import Unusable

CONNECT_SECONDS = 30.0
LONGEST_ASKED = 600.0
"""Seconds that a Retry-After may ask for."""
OWN_MACHINE = ("localhost", "127.0.0.1", "::1")


@lru_cache(maxsize=64)
def timeout_of(seconds: float) -> aiohttp.ClientTimeout:
    """The whole request's, and the connection's."""
    return aiohttp.ClientTimeout(total=seconds, connect=min(CONNECT_SECONDS, seconds))


def watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose connection is lost two minutes after its other end has vanished without a word, as a node does that
    loses its power: an answer may take an hour, and its timeout even longer."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    made.setblocking(False)
    return made


async def read_whole(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The body of an answer. Raises Unusable when it is longer than `most` bytes."""
    parts, size = [], 0
    while part := await answer.content.readany():
        parts.append(part)
        size += len(part)
        if size > most:
            raise Unusable(f"longer than {most} bytes")
    return b"".join(parts) if len(parts) != 1 else parts[0]


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a server, none on this machine; aiohttp's `trust_env` asks every time."""
    address = urlsplit(url)
    if address.hostname in OWN_MACHINE or urllib.request.proxy_bypass(address.hostname or ""):
        return None
    return urllib.request.getproxies().get(address.scheme)


def seconds_of(retry_after: str | None) -> float:
    """A Retry-After, a number of seconds or a date, as seconds from now; 0 where there is none to read."""
    if not retry_after:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_ASKED) if seconds == seconds else 0.0
