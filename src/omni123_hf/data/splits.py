"""Which split an object belongs to: by hash, so that it never depends on the order or the number of assets."""

from __future__ import annotations

import hashlib


SPLITS = ("train", "validation", "heldout", "heldout_combination")
VALIDATION_SHARE = 0.02
HELDOUT_SHARE = 0.04


def split_of(key: str, seed: int = 0) -> str:
    """ "train" (94 %), "validation" (2 %) or "heldout" (4 %) of the object named by `key`.

    Views, captions and samples of one object share its key and so its split: an unseen object is unseen in every
    modality. Real assets use their id, parametric ones their program, so that two seeds with one program never part.
    """
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < VALIDATION_SHARE:
        return "validation"
    return "heldout" if place < VALIDATION_SHARE + HELDOUT_SHARE else "train"
