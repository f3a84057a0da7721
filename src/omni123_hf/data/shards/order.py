"""The order in which records are visited: a function of the running number, so that resuming costs nothing."""

import numpy as np

from omni123_hf.errors import Omni123Error


ROUNDS = 4
# Odd 64-bit constants of the SplitMix64 generator (Steele, Lea and Flood 2014).
GOLDEN, MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, elementwise on uint64."""
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))


class ShuffledOrder:
    """Running numbers 0, 1, 2, … to record numbers in [0, count): each epoch is another permutation of all records.

    A Feistel network over the next power of four, walked until it lands inside the range: no table, no state, the same
    cost at number 10 and at number 10 billion. Two halves of equal width make it a permutation whatever the mixing is.
    """

    def __init__(self, count: int, seed: int):
        if count < 1:
            raise Omni123Error("there are no records to visit; choose another split or source")
        self.count, self.seed = count, seed
        self.half_bits = max(1, ((count - 1).bit_length() + 1) // 2)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """(N,) running numbers of any epoch to (N,) int64 record numbers."""
        numbers = np.asarray(numbers, dtype=np.int64)
        epochs, positions = np.divmod(numbers, self.count)
        with np.errstate(over="ignore"):
            # Wrapping multiplication is what the mixing means.
            keys = mixed(mixed(np.uint64(self.seed % 2**64) + np.zeros(1, np.uint64)) ^ epochs.astype(np.uint64))
            places = self._permuted(positions.astype(np.uint64), keys)
            outside = np.flatnonzero(places >= self.count)
            while len(outside):
                places[outside] = self._permuted(places[outside], keys[outside])
                outside = outside[places[outside] >= self.count]
        return places.astype(np.int64)

    def _permuted(self, x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        bits, low = np.uint64(self.half_bits), np.uint64(2**self.half_bits - 1)
        left, right = x >> bits, x & low
        for step in range(ROUNDS):
            left, right = right, left ^ (mixed(right ^ keys ^ np.uint64(step << 56)) & low)
        return (left << bits) | right
