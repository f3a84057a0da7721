"""Licence names as found, in SPDX terms where they are known."""

from __future__ import annotations

import re

from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE


# The short names of Sketchfab, and so of Objaverse, mean version 4.0.
_CREATIVE_COMMONS = re.compile(r"(?:cc|creativecommons)?(by(?:nc)?(?:sa|nd)?)(\d\.\d)?")
_KNOWN = {
    "cc0": "CC0-1.0", "cc010": "CC0-1.0", "cczero": "CC0-1.0", "publicdomain": "CC0-1.0", "mit": "MIT",
    "apache2": "Apache-2.0", "apache20": "Apache-2.0", "apachelicense20": "Apache-2.0",
}  # fmt: skip
_UNSTATED = {"", "unknown", "none", "na", "null", "nan", "unspecified"}


def normalise_licence(text: object) -> str:
    """SPDX identifier of a well-known licence, the text itself of any other, "unknown" when nothing is stated."""
    words = "" if text is None else str(text).strip()
    key = re.sub(r"[^a-z0-9.]", "", words.lower())
    plain = key.replace(".", "")
    if plain in _UNSTATED:
        return UNKNOWN_LICENCE
    if plain in _KNOWN:
        return _KNOWN[plain]
    match = _CREATIVE_COMMONS.fullmatch(key)
    if match is None:
        return words
    terms = re.fullmatch(r"by(nc)?(sa|nd)?", match[1])
    assert terms is not None
    return "-".join(["CC-BY", *(term.upper() for term in terms.groups() if term), match[2] or "4.0"])
