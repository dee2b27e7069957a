"""How long a server asks to wait: the Retry-After header."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_SECONDS = 600.0
"""The longest Retry-After that is honored, in seconds."""


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
