"""Microsoft's Fluent Emoji in their 3D style: about 1,600 rendered objects with names and keywords, without any mesh.

Pictures come from the package `@lobehub/fluent-emoji-3d`, names from `unicode-emoji-json`, keywords from `emojilib`, all
MIT. Left out: flags (a printed pattern, no object), skin tones (one object five times), pictures without a name, and
repeated pictures.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import Omni123Error, RejectedError
from ..pictures import PictureLimits, decode_picture
from .base import seeded_generator
from .captions import LIMITS, color_names
from .npm import NpmPackage


NAME = "fluent-emoji"
MIB = 2**20
PACKAGES = (
    NpmPackage(
        "@lobehub/fluent-emoji-3d", "1.1.0",
        "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        20 * MIB, 40 * MIB, 4000,
    ),
    NpmPackage("unicode-emoji-json", "0.9.0", "sha512-HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==", MIB, 4 * MIB, 20),
    NpmPackage("emojilib", "4.0.3", "sha512-KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==", MIB, 4 * MIB, 20),
)  # fmt: skip
LICENCE = "MIT"
ATTRIBUTION = "Fluent Emoji by Microsoft Corporation (MIT), packaged by LobeHub (MIT); names by Mu-An Chiou (MIT)"
SKIN_TONES = frozenset(["1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"])
LIMITS_OF_A_PICTURE = PictureLimits(max_file_bytes=MIB, max_pixels=MIB)

LEADS = ("A soft 3D illustration of", "A glossy 3D icon of", "A rendered 3D emoji of", "A friendly 3D picture of")
GROUP_WORDS = {
    "Smileys & Emotion": "faces and feelings",
    "People & Body": "people and gestures",
    "Animals & Nature": "animals and nature",
    "Food & Drink": "food and drink",
    "Travel & Places": "vehicles, places and the sky",
    "Activities": "games, sports and celebrations",
    "Objects": "everyday objects",
    "Symbols": "signs and symbols",
}
# A person in blue is no "blue person".
COLORLESS_GROUPS = frozenset(["Smileys & Emotion", "People & Body"])
BRANDS = frozenset("twitter oreo iphone playstation xbox mcdonalds marvel batman uber ikea nike".split())
# True of every picture of the set; used to reach the length.
GENERAL = (
    "It stands alone in the middle of the picture on a plain white background, without any other object around it.",
    "The style is simple and rounded, with smooth surfaces and soft light.",
    "There is no scenery and no floor, only this one thing seen as a whole.",
)


@dataclass(frozen=True)
class ImageAsset:
    """A picture with words and a licence; `captions` as in `SourceAsset`."""

    id: str
    source: str
    name: str
    category: str
    captions: dict[str, list[str]]
    licence: str
    attribution: str
    path: str
    attributes: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Image.Image:
        """See `load_picture`."""
        return load_picture(Path(self.path))


def iter_images(root: Path) -> Iterator[ImageAsset]:
    """Assets of an unpacked download (`fetch`), in the order of their code points."""
    root = Path(root)
    pictures = root / "fluent-emoji-3d" / "assets"
    if not pictures.is_dir():
        raise Omni123Error(f"{root} holds no fluent-emoji-3d/assets; run 'omni123 data fetch {NAME}' first")
    names = _table(root / "unicode-emoji-json" / "data-by-emoji.json")
    keywords = _table(root / "emojilib" / "dist" / "emoji-en-US.json")
    by_key = {"-".join(_codes(f"{ord(c):x}" for c in emoji)): emoji for emoji in names}
    seen: set[str] = set()
    contents: set[str] = set()
    for path in sorted(pictures.glob("*.webp")):
        # Names differ in leading zeros and in U+FE0F, which only asks for the coloured form.
        codes = _codes(re.split(r"[-_]", path.stem.lower()))
        key = "-".join(codes)
        emoji = by_key.get(key)
        if emoji is None or key in seen or SKIN_TONES & set(codes) or names[emoji]["group"] not in GROUP_WORDS:
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest in contents:
            continue
        seen.add(key)
        contents.add(digest)
        yield _asset(path, key, names[emoji], keywords.get(emoji, []))


def load_picture(path: Path) -> Image.Image:
    """An RGBA picture, read whole. RejectedError for one that is broken, animated, too large or fully transparent."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectedError("unreadable_file", f"{path.name} cannot be read: {error.strerror}") from error
    return decode_picture(data, path.name, LIMITS_OF_A_PICTURE)


def caption_levels(name: str, group: str, keywords: list[str], colors: list[str], key: str) -> dict[str, list[str]]:
    """Captions {"short": 2, "medium": 2, "long": 1} from metadata and colours; the wording depends on `key` only."""
    rng = seeded_generator(NAME, key)
    first, second = (LEADS[i] for i in rng.permutation(len(LEADS))[:2])
    words = name.split()
    short = [" ".join(words[:5]), f"{colors[0]} {name}" if colors and group not in COLORLESS_GROUPS else f"3D {name}"]
    noun = " ".join(words[:10])
    related = f", related to {' and '.join(keywords[:2])}" if keywords else ""
    sentences = [f"{LEADS[int(rng.integers(len(LEADS)))]} {noun}.", f"It belongs to {GROUP_WORDS[group]}."]
    if keywords:
        sentences.append(f"One thinks of {_join(keywords[:4])}.")
    if colors:
        sentences.append(f"The main colour is {_join(colors[:1])}.")
    low, high = LIMITS["long"]
    for sentence in (GENERAL[i] for i in rng.permutation(len(GENERAL))):
        if len(" ".join(sentences).split()) < low:
            sentences.append(sentence)
    return {
        "short": list(dict.fromkeys(text for text in short if len(text.split()) <= LIMITS["short"][1])),
        "medium": [
            f"{first} {noun}, shown alone on a plain white background.",
            f"{second} {noun}{related}, in the middle of a white picture.",
        ],
        "long": [" ".join(" ".join(sentences).split()[:high])],
    }


def _asset(path: Path, key: str, entry: dict[str, Any], keywords: list[str]) -> ImageAsset:
    name = re.sub(r"\s+", " ", re.sub(r"[:“”()]", ",", str(entry["name"])).replace(" ,", ",")).strip(" ,").lower()
    plain = [word.replace("_", " ").lower() for word in keywords]
    told = [
        word
        for word in dict.fromkeys(plain)
        if re.fullmatch(r"[a-z]{3,}( [a-z]{2,})?", word) and word not in name and not BRANDS & set(word.split())
    ][:6]
    return ImageAsset(
        id=f"{NAME}/{key}",
        source=NAME,
        name=name,
        category=str(entry["group"]).lower(),
        captions=caption_levels(name, str(entry["group"]), told, _colors(path), key),
        licence=LICENCE,
        attribution=ATTRIBUTION,
        path=str(path),
        attributes={"group": entry["group"], "keywords": told, "code_points": key},
    )


def _colors(path: Path) -> list[str]:
    try:
        picture = load_picture(path)
    except Omni123Error:
        # Preparation opens it again and lists it as rejected; here it only has no colour.
        return []
    pixels = np.asarray(picture.resize((64, 64))).reshape(-1, 4)
    return color_names(pixels[pixels[:, 3] > 127, :3])


def _codes(parts: Any) -> tuple[str, ...]:
    return tuple(part.lstrip("0") for part in parts if part not in ("fe0f", ""))


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _table(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Omni123Error(f"{path} cannot be read: {error}; fetch {NAME} again") from error
    if not isinstance(value, dict):
        raise Omni123Error(f"{path} is not a table of emoji; fetch {NAME} again")
    return value
