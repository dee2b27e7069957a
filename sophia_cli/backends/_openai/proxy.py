"""The small print of a request: through which proxy, and how long a server asks to wait."""

import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

LONGEST_ASKED = 600.0
"""Seconds that a Retry-After may ask for."""
OWN_MACHINE = ("localhost", "127.0.0.1", "::1")


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a server, none on this machine."""
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
