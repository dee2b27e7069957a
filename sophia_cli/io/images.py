"""Images by path, URL or data URI: their bytes, and their pixels as every step shows them.

`decode_image` is the one place that turns bytes into pixels. Captioning, evaluation, training, decontamination and export
use it, and `wire_bytes` sends a server what decodes to the same pixels, so that a model is trained on what it was shown.
"""

import base64
import binascii
import errno
import hashlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from sophia_cli.errors import InputError, RecordError
from sophia_cli.io.downloads import DownloadError, download
from sophia_cli.io.paths import IMAGE_STARTS

if TYPE_CHECKING:
    from PIL.Image import Image

# Two letters at least: C:\images is a path.
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?://)?")
LFS_MARK = b"version https://git-lfs.github.com/spec/"
WIRE_FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif"}
"""Pillow's names of the formats that vLLM, SGLang and providers accept, and their media types."""
PLAIN_MODES = frozenset(("1", "L", "P", "RGB"))
"""Pillow's modes that every decoder shows alike: 8 bits or fewer, no transparency, no printer's colors."""
ORIENTATION_TAG = 0x0112
TEXT_MARKS = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing; convert it to PNG"),
    (b"{", "a JSON text"),
)


def reference_scheme(reference: str) -> str:
    """Returns `data`, `http`, `https`, `file` or another scheme in lower case; an empty text for a path."""
    match = SCHEME.match(reference.lstrip())
    if not match:
        return ""
    scheme = match[1].lower()
    # A file may be called `a:b.png`; only `scheme://` is surely an address.
    return scheme if match[0].endswith("//") or scheme in ("data", "file", "hf") else ""


def is_download(reference: str) -> bool:
    """Tells whether an image is at an http or https address."""
    return reference_scheme(reference) in ("http", "https")


def is_embedded(reference: str) -> bool:
    """Tells whether an image is in the record itself, as a data URI."""
    return reference_scheme(reference) == "data"


def local_path(reference: str) -> str:
    """Returns the path of an image that is a file: `file://` is removed and its percent-encoding decoded."""
    return url2pathname(urlsplit(reference).path) if reference_scheme(reference) == "file" else reference


def image_bytes(reference: str) -> bytes:
    """Returns the bytes behind a path, an http(s) URL, a file:// URL or a data URI.

    Raises:
        RecordError: they cannot be read.
    """
    remedy = "fix the path or the file"
    try:
        scheme = reference_scheme(reference)
        if scheme == "data":
            return _embedded_bytes(reference)
        if scheme in ("http", "https"):
            remedy = "fix the address, or download the file"
            return download(reference)
        path = Path(local_path(reference))
        if scheme not in ("", "file") and not path.exists():
            remedy = "download the file and give its path"
            raise ValueError(f"addresses that begin with {scheme}: are not read")
        if path.exists() and not path.is_file():
            raise OSError(0, "not a file")
        return path.read_bytes()
    except (OSError, ValueError, DownloadError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            reason, remedy = "too long for a path", "write base64 as data:image/png;base64,…"
        raise RecordError(f"image {shorten_reference(reference)} cannot be read ({reason}); {remedy}") from None


def _embedded_bytes(reference: str) -> bytes:
    header, comma, payload = reference.partition(",")
    if not comma:
        raise ValueError("no comma after its media type")
    if not header.casefold().endswith(";base64"):
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


def open_image(reference: str) -> "Image":
    """Returns the image in RGB, as every step shows it.

    Raises:
        RecordError: it cannot be read or is not an image.
    """
    return decode_image(image_bytes(reference), reference)


def decode_image(data: bytes, reference: str) -> "Image":
    """Returns the pixels of an image file in RGB.

    The EXIF orientation is applied, transparent pixels become white, 16 bits are scaled to 8, and of several frames the
    first is taken.

    Raises:
        RecordError: it is not an image, or one of floats.
    """
    from PIL import Image, ImageOps

    try:
        if fault := _other_content(data):
            raise ValueError(fault)
        with Image.open(io.BytesIO(data)) as file:
            file.load()  # reading EXIF decodes a PNG too, and hides that it is damaged
            image = file if _orientation(file) == 1 else ImageOps.exif_transpose(file)
            if not image.width * image.height:
                raise ValueError("it has 0 pixels")
            return _on_white(_to_eight_bits(image, is_tiff=file.format == "TIFF"))
    except Exception as error:  # noqa: BLE001  (what Pillow raises depends on the format)
        raise _open_error(reference, error) from None


def _orientation(image: "Image") -> int:
    """Returns the EXIF orientation, 1 to 8; 1 where there is none, or where the EXIF block is damaged."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  (Pillow raises SyntaxError, struct.error and others for a damaged block)
        return 1


def _other_content(data: bytes) -> str:
    """Returns what the bytes are when they are clearly not an image: nothing, a git-lfs pointer, HTML, SVG, JSON."""
    if not data:
        return "the file is empty"
    if data.startswith(LFS_MARK):
        return "a git-lfs pointer; run `git lfs pull`"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<?xml", b"<!--")):
        return "an SVG drawing; convert it to PNG" if b"<svg" in head else "XML"
    return next((kind for mark, kind in TEXT_MARKS if head.startswith(mark)), "")


def _to_eight_bits(image: "Image", is_tiff: bool) -> "Image":
    """Scales 16 bits to 8. Pillow's own conversion cuts values over 255 off, so that such an image becomes white.

    See https://github.com/python-pillow/Pillow/issues/2574.
    """
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floats; convert it to 8 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if is_tiff and image.mode == "I" and values.max() <= 0xFF:  # masks and labels are stored with 32 bits
        return Image.fromarray(values.astype(np.uint8))
    # 16-bit PNG and PGM files have mode `I` in some versions of Pillow; 32-bit TIFF files always have.
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("its pixels have 32 bits; convert it to 8 bits")
    return Image.fromarray((values // 257).astype(np.uint8))  # 65535 becomes 255


def _on_white(image: "Image") -> "Image":
    """Converts to RGB; transparent pixels become white, as on a page."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def wire_bytes(reference: str) -> tuple[bytes, str]:
    """Returns the bytes to send to a server, and their media type.

    The bytes are the file's own where every server decodes them to the pixels of `decode_image`; otherwise these pixels
    as PNG.

    Raises:
        RecordError: the image cannot be read or is not an image.
    """
    from PIL import Image

    data = image_bytes(reference)
    pixels = decode_image(data, reference)
    with Image.open(io.BytesIO(data)) as image:
        plain = image.mode in PLAIN_MODES and not image.has_transparency_data and getattr(image, "n_frames", 1) == 1
        if plain and image.format in WIRE_FORMATS and _orientation(image) == 1:
            return data, f"image/{WIRE_FORMATS[image.format]}"
    encoded = io.BytesIO()
    pixels.save(encoded, "PNG")
    return encoded.getvalue(), "image/png"


def _open_error(reference: str, error: Exception) -> RecordError:
    reason = "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error) or type(error).__name__
    return RecordError(f"image {shorten_reference(reference)} cannot be opened ({reason}); fix the file")


def data_uri(data: bytes, media_type: str | None = None) -> str:
    """Returns image bytes as a data URI; without a media type, the first bytes tell it."""
    return f"data:{media_type or f'image/{image_format(data)}'};base64,{base64.b64encode(data).decode()}"


def image_format(data: bytes) -> str:
    """Returns the format that the first bytes indicate; png where they indicate none."""
    return next((name for start, name in IMAGE_STARTS.items() if data.startswith(start)), "png")


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
    return cache_image(image_bytes(reference)) if is_embedded(reference) else reference


def shorten_reference(reference: str) -> str:
    return reference if len(reference) <= 120 else f"{reference[:60]}…"
