"""Images by path, URL or data URI: their bytes and their pixels."""

import base64
import binascii
import hashlib
import http.client
import io
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from sophia_cli.errors import InputError, RecordError

if TYPE_CHECKING:
    from PIL.Image import Image

URL_SECONDS = 60.0


def image_bytes(reference: str) -> bytes:
    """Returns the bytes behind a path, an http(s) URL, a file:// URL or a data URI.

    Raises:
        RecordError: they cannot be read.
    """
    try:
        if reference.startswith("data:"):
            header, _, payload = reference.partition(",")
            return base64.b64decode(payload, validate=True) if header.endswith(";base64") else payload.encode()
        if reference.startswith(("http://", "https://", "file://")):
            with urllib.request.urlopen(reference, timeout=URL_SECONDS) as answer:
                return bytes(answer.read())
        if Path(reference).exists() and not Path(reference).is_file():
            raise OSError(0, "not a file")
        return Path(reference).read_bytes()
    except (OSError, ValueError, binascii.Error, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecordError(
            f"image {shorten_reference(reference)} cannot be read ({reason}); fix the path or the file"
        ) from None


def checked_image_bytes(reference: str) -> bytes:
    """Returns the bytes of an image file unchanged.

    Raises:
        RecordError: they cannot be read or are not an image.
    """
    from PIL import Image

    data = image_bytes(reference)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
        return data
    except Exception as error:  # noqa: BLE001  (what Pillow raises depends on the format)
        raise _open_error(reference, error) from None


def open_image(reference: str) -> "Image":
    """Returns the image, fully loaded, in RGB.

    Raises:
        RecordError: it cannot be read or is not an image.
    """
    from PIL import Image

    data = image_bytes(reference)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _open_error(reference, error) from None


def _open_error(reference: str, error: Exception) -> RecordError:
    reason = "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error)
    return RecordError(f"image {shorten_reference(reference)} cannot be opened ({reason}); fix the file")


def data_uri(data: bytes) -> str:
    """Returns image bytes as a data URI; the media type comes from the first bytes."""
    return f"data:image/{image_format(data)};base64,{base64.b64encode(data).decode()}"


def image_format(data: bytes) -> str:
    """Returns the format that the first bytes indicate; png where they indicate none."""
    kinds = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
    kinds |= {b"II*\x00": "tiff", b"MM\x00*": "tiff"}
    return next((name for mark, name in kinds.items() if data.startswith(mark)), "png")


def cache_dir() -> Path:
    """Returns the folder `sophia` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sophia"


def cache_image(data: bytes) -> str:
    """Stores image bytes in the cache under a name made from their hash. Returns the path.

    Raises:
        InputError: the file cannot be written.
    """
    file = cache_dir() / "images" / f"{hashlib.sha256(data).hexdigest()[:32]}.{image_format(data)}"
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as draft:
                draft.write(data)
            os.replace(draft.name, file)
        except OSError as error:
            raise InputError(f"{file}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder") from None
    return str(file)


def to_cached_file(reference: str) -> str:
    """Returns the reference; for a data URI, a file of the cache, so that records stay short and a person can open it."""
    return cache_image(image_bytes(reference)) if reference.startswith("data:") else reference


def shorten_reference(reference: str) -> str:
    return reference if len(reference) <= 120 else f"{reference[:60]}…"
