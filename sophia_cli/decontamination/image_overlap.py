"""Finds benchmark items with similar images, by their perceptual hashes."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sophia_cli.decontamination.overlap import Overlap


class ImageIndex:
    """The perceptual hashes of a benchmark's images."""

    def __init__(self, distance: int):
        self.distance = distance
        self.numbers: list[int] = []
        self.hashes: list[bytes] = []
        self.table: npt.NDArray[np.uint64] | None = None

    def add_hash(self, number: int, name: bytes) -> None:
        """Adds the hash of an image of item `number`; an empty hash matches nothing."""
        if not name:
            return
        self.numbers.append(number)
        self.hashes.append(name)

    def find_overlaps(self, names: Iterable[bytes]) -> list[Overlap]:
        """Returns the items within the distance of any of these hashes, nearest first, each once."""
        if self.table is None:
            self.table = np.frombuffer(b"".join(self.hashes), dtype=np.uint64).reshape(len(self.hashes), -1)
        found: dict[int, int] = {}
        for name in filter(None, names):
            bits = np.bitwise_count(self.table ^ np.frombuffer(name, dtype=np.uint64)).sum(axis=1, dtype=np.int64)
            for index in np.flatnonzero(bits <= self.distance).tolist():
                number = self.numbers[index]
                found[number] = min(int(bits[index]), found.get(number, 1 << 30))
        return [
            Overlap(number, distance=bits) for number, bits in sorted(found.items(), key=lambda each: (each[1], each[0]))
        ]
