"""Perceptual hashes of images (phash, 256 bits). Each image is hashed once; hashes are kept in the user's cache.

Copies of an image that were scaled, converted to gray or compressed as JPEG differ in up to 12 bits, different
diagrams in 70 and more. A cropped image counts as another image.
"""

import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from sophia_cli.errors import RecordError
from sophia_cli.io.images import cache_dir, is_download, is_embedded, local_path, open_image
from sophia_cli.runtime.progress import log_info

HASH_SIDE = 16
"""The hash has HASH_SIDE x HASH_SIDE bits."""
FLAT_HASH = b""


def perceptual_hash(reference: str) -> bytes:
    """Returns the perceptual hash of an image, 32 bytes; FLAT_HASH for an image of a single color, which matches no
    other.

    Raises:
        RecordError: it cannot be read or is not an image.
    """
    import imagehash

    gray = open_image(reference).convert("L")
    low, high = gray.getextrema()
    return _pack_bits(imagehash.phash(gray, hash_size=HASH_SIDE).hash) if low != high else FLAT_HASH


def _pack_bits(bits: "object") -> bytes:
    import numpy as np

    return np.packbits(np.asarray(bits, dtype=bool)).tobytes()


def image_key(reference: str) -> str:
    """Returns what identifies an image without reading it: a file's path, size, times and inode, else the reference."""
    if is_embedded(reference) or is_download(reference):
        return xxh3_128_hexdigest(reference.encode("utf-8", "surrogatepass"))
    try:
        path = os.path.abspath(local_path(reference))
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{path}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"


def cache_file() -> Path:
    """Returns the file of cached hashes: `sophia/image_hashes.sqlite` in the user's cache folder."""
    return cache_dir() / "image_hashes.sqlite"


class ImageHashCache:
    """Cached hashes by image key. If the file cannot be used, hashes are kept for this run only."""

    def __init__(self, file: Path):
        self.lock, self.made = threading.Lock(), dict[str, bytes]()
        self.base: sqlite3.Connection | None = None
        with suppress(OSError, sqlite3.Error):
            file.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(file, isolation_level=None, timeout=5, check_same_thread=False)
            base.execute("CREATE TABLE IF NOT EXISTS hashes (name TEXT PRIMARY KEY, hash BLOB) WITHOUT ROWID")
            self.base = base

    def get_hash(self, reference: str) -> bytes | None:
        """Returns the cached hash of an image, or None."""
        name = image_key(reference)
        if name in self.made:
            return self.made[name]
        rows = self._query("SELECT hash FROM hashes WHERE name = ?", name)
        look = rows[0][0] if rows else None
        return look if isinstance(look, bytes) and len(look) in (len(FLAT_HASH), HASH_SIDE * HASH_SIDE // 8) else None

    def put_hash(self, reference: str, look: bytes) -> None:
        """Stores a hash."""
        if not (name := image_key(reference)):
            return
        self._query("INSERT OR REPLACE INTO hashes VALUES (?, ?)", name, look)
        if self.base is None:
            self.made[name] = look

    def _query(self, question: str, *values: Any) -> list[Any]:
        with self.lock:
            try:
                return self.base.execute(question, values).fetchall() if self.base else []
            except sqlite3.Error as error:
                log_info(f"{cache_file()}: not used ({error}); hashes are kept for this run only")
                self.base = None
                return []


def hash_images(references: list[str]) -> dict[str, bytes | str]:
    """Returns the hash of each image, or one line that says why there is none. Runs in a worker."""
    return {reference: _hash_or_fault(reference) for reference in references}


def _hash_or_fault(reference: str) -> bytes | str:
    try:
        return perceptual_hash(reference)
    except RecordError as error:
        return str(error)
