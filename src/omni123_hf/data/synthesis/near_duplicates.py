"""Finds a text that is nearly one seen before, without comparing all pairs: MinHash in bands, then an exact check."""

from __future__ import annotations

import re
import zlib

import numpy as np


HASHES, BANDS = 64, 16
_PRIME = (1 << 31) - 1


class NearDuplicates:
    """Remembers texts; two are near when the Jaccard index of their words and word pairs reaches `threshold`."""

    def __init__(self, threshold: float = 0.8):
        self.threshold = threshold
        rng = np.random.default_rng(0)
        self._factors = rng.integers(1, _PRIME, HASHES, dtype=np.int64)
        self._offsets = rng.integers(0, _PRIME, HASHES, dtype=np.int64)
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        self._texts: list[tuple[str, frozenset[int]]] = []

    def add(self, text: str) -> str | None:
        """The text seen before that this one nearly is; None, and the text is remembered, when there is none."""
        shingles = _shingles(text)
        values = np.fromiter(shingles, dtype=np.int64)
        # Factors and values are below 2**31, so the products stay within 63 bits.
        signature = ((values[:, None] * self._factors + self._offsets) % _PRIME).min(axis=0)
        keys = [(band, part.tobytes()) for band, part in enumerate(signature.reshape(BANDS, -1))]
        for candidate in {index for key in keys for index in self._bands.get(key, ())}:
            seen, others = self._texts[candidate]
            if len(shingles & others) >= self.threshold * len(shingles | others):
                return seen
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._texts))
        self._texts.append((text, shingles))
        return None


def _shingles(text: str) -> frozenset[int]:
    words = re.findall(r"\w+", text.lower()) or [""]
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]
    return frozenset(zlib.crc32(piece.encode()) % _PRIME for piece in [*words, *pairs])
