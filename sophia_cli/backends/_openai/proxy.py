"""Details of a request: its proxy, and how long a server asks to wait (Retry-After)."""

import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

MAX_RETRY_AFTER_SECONDS = 600.0
"""The longest Retry-After that is honored, in seconds."""
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def find_proxy(url: str) -> str | None:
    """Returns the proxy that the environment names for a server; none for servers on this machine."""
    address = urlsplit(url)
    if address.hostname in LOCAL_HOSTS or urllib.request.proxy_bypass(address.hostname or ""):
        return None
    return urllib.request.getproxies().get(address.scheme)


def parse_retry_after(retry_after: str | None) -> float:
    """Returns a Retry-After (seconds or a date) as seconds from now; 0 where there is none."""
    if not retry_after:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS) if seconds == seconds else 0.0
