"""Editing pairs (paper §5): one schema, pairs from our generator, posed characters, and readers of public sets."""

from .pair_store import EditPairStore
from .records import EditPair, EditSide, read_pairs, write_pairs
from .regions import EditRegion, RegionBox


__all__ = ["EditPair", "EditPairStore", "EditRegion", "EditSide", "RegionBox", "read_pairs", "write_pairs"]
