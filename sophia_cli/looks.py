"""What images look like: perceptual hashes (phash, 256 bits), each image hashed once and kept in a file of the user's cache.

Copies of an image that were scaled, recoloured to grey or packed as JPEG differ in up to 12 bits here, different diagrams in
70 and more; a cut edge makes another image of it.
"""

import io
import os
import sqlite3
import threading
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from sophia_cli.errors import RecordError
from sophia_cli.images import image_bytes, shorten

SIDE = 16
"""The hash has SIDE x SIDE bits."""


def look_of(reference: str) -> bytes:
    """The perceptual hash of an image, 32 bytes. Raises RecordError when it cannot be read or is no image."""
    import imagehash
    from PIL import Image

    data = image_bytes(reference)
    try:
        with Image.open(io.BytesIO(data)) as image:
            flat = image.convert("RGBA") if image.mode in ("P", "LA", "PA") else image
            if flat.mode == "RGBA":  # what is clear is white, as on a page
                flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat)
            return bytes(_packed(imagehash.phash(flat.convert("L"), hash_size=SIDE).hash))
    except Exception as error:  # noqa: BLE001  (what PIL raises differs by format)
        raise RecordError(f"image {shorten(reference)} cannot be opened ({error}); mend the file") from None


def _packed(bits: "object") -> bytes:
    import numpy as np

    return np.packbits(np.asarray(bits, dtype=bool)).tobytes()


def name_of_image(reference: str) -> str:
    """What tells an image from another without a look at it: a file by its path, size and time, else the reference."""
    if reference.startswith(("data:", "http://", "https://")):
        return xxh3_128_hexdigest(reference.encode("utf-8", "surrogatepass"))
    try:
        path = os.path.abspath(reference.removeprefix("file://"))
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{path}:{found.st_size}:{found.st_mtime_ns}"


def cache_file() -> Path:
    """Where hashes are kept: `sophia/looks.sqlite` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sophia" / "looks.sqlite"


class Looks:
    """Hashes that were made before, by the names of their images; held for this run alone where no file can be."""

    def __init__(self, file: Path):
        self.lock = threading.Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.base = self._opened(str(file))
        except (OSError, sqlite3.Error):
            self.base = self._opened(":memory:")

    def _opened(self, name: str) -> sqlite3.Connection:
        base = sqlite3.connect(name, isolation_level=None, timeout=60, check_same_thread=False)
        base.execute("CREATE TABLE IF NOT EXISTS looks (name TEXT PRIMARY KEY, look BLOB) WITHOUT ROWID")
        return base

    def get(self, reference: str) -> bytes | None:
        """The hash of an image, if it was made before."""
        with self.lock:
            row = self.base.execute("SELECT look FROM looks WHERE name = ?", (name_of_image(reference),)).fetchone()
        return row[0] if row else None

    def put(self, reference: str, look: bytes) -> None:
        """Keeps a hash."""
        if name := name_of_image(reference):
            with self.lock:
                self.base.execute("INSERT OR REPLACE INTO looks VALUES (?, ?)", (name, look))


def looks_of(references: list[str]) -> dict[str, bytes | str]:
    """The hash of each image, or in one line why there is none. What a worker does."""
    return {reference: _look_or_fault(reference) for reference in references}


def _look_or_fault(reference: str) -> bytes | str:
    try:
        return look_of(reference)
    except RecordError as error:
        return str(error)
