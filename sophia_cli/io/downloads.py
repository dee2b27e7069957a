"""Images at http and https addresses: bounded in bytes and seconds, and requested again after a fault that may pass."""

import http.client
import queue
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import quote, urlsplit, urlunsplit

from sophia_cli import __version__

# All tries together, the waits between them included.
DOWNLOAD_SECONDS = 60.0
# A larger file is not an image that a model is shown: Pillow refuses more than 179 million pixels.
MAX_DOWNLOAD_BYTES = 100_000_000
CHUNK_BYTES = 1 << 16
RETRY_WAITS = (1.0, 3.0)
"""Seconds before the second and the third try."""
PASSING_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))
# quote() must keep what separates the parts of a URL, and `%`, because most URLs are encoded already.
SAFE_CHARS = "/%:=&?~+!$,;'@()*[]|"


class DownloadError(Exception):
    """Why an address could not be read, in words."""


def encode_url(url: str) -> str:
    """Returns the address with spaces and letters beyond ASCII percent-encoded, as browsers send it.

    Raises:
        DownloadError: the host is not a name.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
        name = host if host.isascii() else host.encode("idna").decode()
    except (UnicodeError, ValueError) as error:
        raise DownloadError(f"not an address: {' '.join(str(error).split())}") from None
    user = parts.netloc.rpartition("@")[0]
    place = (
        f"{f'{quote(user, SAFE_CHARS)}@' if user else ''}{f'[{name}]' if ':' in name else name}{f':{port}' if port else ''}"
    )
    return urlunsplit((parts.scheme.lower(), place, quote(parts.path, SAFE_CHARS), quote(parts.query, SAFE_CHARS), ""))


def download(url: str) -> bytes:
    """Returns the bytes at an address.

    Raises:
        DownloadError: they cannot be read, or are too many.
    """
    request = urllib.request.Request(encode_url(url), headers={"User-Agent": f"sophia/{__version__}"})
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    waits = iter(RETRY_WAITS)
    while True:
        try:
            return _read_in_time(request, deadline)
        except urllib.error.HTTPError as error:
            error.close()
            said = " ".join(str(error.reason).split())[:100]
            reason, passes = f"HTTP {error.code} {said}".strip(), error.code in PASSING_STATUSES
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            reason, passes = str(cause) or type(cause).__name__, _may_pass(cause)
        wait = next(waits, None)
        if not passes or wait is None or time.monotonic() + wait >= deadline:
            raise DownloadError(reason)
        time.sleep(wait)


def _may_pass(cause: object) -> bool:
    """Tells whether another try may succeed: not after a bad address, an unknown host or an untrusted certificate."""
    unknown_host = isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
    lasting = unknown_host or isinstance(cause, ssl.SSLCertVerificationError)
    return isinstance(cause, OSError | http.client.HTTPException) and not lasting


def _read_in_time(request: urllib.request.Request, deadline: float) -> bytes:
    """Reads in another thread, because headers that arrive byte by byte and chains of redirects have no timeout.

    Raises:
        DownloadError: the bytes are too many, or late.
        OSError, http.client.HTTPException, ValueError: they cannot be read.
    """
    done: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def read() -> None:
        try:
            done.put(_read_bounded(request, deadline))
        except Exception as error:  # noqa: BLE001  (raised again below)
            done.put(error)

    threading.Thread(target=read, daemon=True).start()
    try:
        found = done.get(timeout=max(deadline - time.monotonic(), 0.1))
    except queue.Empty:
        raise DownloadError(f"not complete after {DOWNLOAD_SECONDS:.0f} s") from None
    if isinstance(found, Exception):
        raise found
    return found


def _read_bounded(request: urllib.request.Request, deadline: float) -> bytes:
    data = bytearray()
    with urllib.request.urlopen(request, timeout=max(deadline - time.monotonic(), 0.1)) as response:
        # read1 returns what has arrived, so that a server that sends a byte a second does not extend the deadline.
        while chunk := response.read1(CHUNK_BYTES):
            data += chunk
            if len(data) > MAX_DOWNLOAD_BYTES:
                raise DownloadError(f"more than {MAX_DOWNLOAD_BYTES // 1_000_000} MB")
            if time.monotonic() > deadline:
                raise DownloadError(f"not complete after {DOWNLOAD_SECONDS:.0f} s")
        expected = response.length  # bytes of Content-Length that did not arrive; read1 does not raise IncompleteRead
        if expected:
            raise http.client.IncompleteRead(bytes(data), expected)
    return bytes(data)
