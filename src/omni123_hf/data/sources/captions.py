"""Captions of real assets at three lengths, from their metadata only: what the words say is what the catalogue says.

short: 1-5 words, medium: 10-25, long: 40-70.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np


LIMITS = {"short": (1, 5), "medium": (10, 25), "long": (40, 70)}

# Anchors in sRGB; a colour gets the name of the nearest in CIELAB.
COLOR_NAMES: dict[str, tuple[int, int, int]] = {
    "black": (22, 22, 24), "dark grey": (80, 80, 82), "grey": (135, 135, 135), "light grey": (192, 192, 192),
    "white": (245, 245, 245), "red": (190, 20, 25), "dark red": (110, 15, 20), "pink": (240, 150, 175),
    "orange": (230, 120, 30), "yellow": (240, 205, 30), "green": (40, 140, 50), "dark green": (25, 75, 35),
    "light green": (155, 210, 130), "blue": (30, 85, 180), "dark blue": (20, 35, 90), "light blue": (150, 195, 230),
    "turquoise": (20, 160, 160), "purple": (115, 40, 140), "brown": (110, 65, 35), "dark brown": (65, 40, 25),
    "light brown": (175, 125, 80), "beige": (215, 195, 160),
}  # fmt: skip


@dataclass
class Description:
    """What is known of an asset. `name` is a noun phrase without an article; `facts` are whole sentences, best first."""

    name: str
    colors: list[str] = field(default_factory=list)
    # A phrase after "from", for example "the bedroom section of a furniture catalogue".
    origin: str = ""
    size: str = ""
    facts: list[str] = field(default_factory=list)


def describe(description: Description, rng: np.random.Generator) -> dict[str, list[str]]:
    """Captions {"short": [2], "medium": [2], "long": [1]} of a description; the wording is drawn from `rng`.

    Every caption lies inside the word counts of `LIMITS`.
    """
    name = _clip(description.name, 12)
    color = description.colors[0] if description.colors else ""
    noun = f"{color} {name}".strip()
    head = head_phrase(description.name, 5 - len(color.split()))
    short = [f"{color} {head}".strip(), _clip(head, 4)]
    short = [f"{article(text)} {text}" if len(text.split()) < 5 and rng.random() < 0.5 else text for text in short]
    leads = rng.permutation(len(_MEDIUM_LEADS))
    return {
        "short": list(dict.fromkeys(short)),
        "medium": [_medium(description, noun, _MEDIUM_LEADS[leads[index]], rng) for index in range(2)],
        "long": [_long(description, noun, rng)],
    }


_MEDIUM_LEADS = ("A 3D model of", "A single object:", "A coloured model of", "The shape of")

# Leading words that can go when a short caption needs room.
_GENERIC = (
    "toy figure",
    "large toy figure",
    "technical",
    "electric",
    "building",
    "doll house",
    "doll figure",
    "large",
    "toy",
)


def head_phrase(name: str, words: int) -> str:
    """The core of a noun phrase in at most `words` words: what stands before "with", sizes kept where they fit."""
    core = re.split(r",| (?:with|without|for|and|in|on|of|from|to|under|inside) ", name)[0].strip()
    if name.startswith(("set of", "pair of", "bowl with")):
        core = name
    if len(core.split()) <= words:
        return _clip(core, words)
    for generic in _GENERIC:
        if core.startswith(f"{generic} ") and not core[len(generic) + 1].isdigit():
            core = core[len(generic) + 1 :]
            if len(core.split()) <= words:
                return _clip(core, words)
    plain = re.split(r" (?=\d)", core)[0]
    # A size of two numbers says more than a second adjective: "brick 2 x 4".
    sized = re.match(r"(?:\D* )?([a-z]{3,}) (\d+ x \d+)(?! x)(?: |$)", core)
    if sized and words >= 4:
        return f"{sized[1]} {sized[2]}"
    # The noun comes first in these titles ("brick curved ..."), so the first words are the ones to keep.
    return _clip(plain, min(words, 3))


def _medium(description: Description, noun: str, lead: str, rng: np.random.Generator) -> str:
    text = f"{lead} {article(noun)} {noun}"
    size = f", {description.size}" if description.size else ""
    origin = f", from {description.origin}" if description.origin else ""
    second = f" with some {description.colors[1]}" if len(description.colors) > 1 else ""
    order = [second, size, origin] if rng.random() < 0.5 else [second, origin, size]
    # The last two carry no information: they only bring a poor description to the least length.
    for extra in [*order, ", shown alone on a plain background", ", without any other object around it"]:
        short = len(text.split()) < LIMITS["medium"][0]
        fits = len(f"{text}{extra}".split()) <= LIMITS["medium"][1]
        if extra and fits and (short or (extra in order and rng.random() < 0.4)):
            text += extra
    return text + "."


def _long(description: Description, noun: str, rng: np.random.Generator) -> str:
    low, high = LIMITS["long"]
    lead = ("This 3D model shows", "This is", "The object is", "A complete model of")[rng.integers(4)]
    sentences = [f"{lead} {article(noun)} {noun}."]
    if description.origin:
        sentences.append(f"It comes from {description.origin}.")
    if len(description.colors) > 1:
        sentences.append(
            f"The main colour is {description.colors[0]}, and {description.colors[1]} parts can be seen too."
        )
    elif description.colors:
        sentences.append(f"The main colour is {description.colors[0]}.")
    if description.size:
        sentences.append(f"In reality it is {description.size}.")
    # True of every asset here, whatever it shows; used only to reach the length.
    general = [
        "The model holds only this one item, with no floor, no scenery and no other object around it.",
        "It stands upright as in its catalogue and can be turned and looked at from every side.",
        "Each face of the surface carries one plain colour.",
    ]
    text = " ".join(sentences)
    for sentence in [*description.facts, *(general[index] for index in rng.permutation(len(general)))]:
        words = len(text.split())
        if words < low or (sentence in description.facts and words < high - 12):
            if words + len(sentence.split()) <= high:
                text = f"{text} {sentence}"
    return text


def article(text: str) -> str:
    """The word a or an before a noun phrase; nothing is added to the phrase."""
    word = text.lower().lstrip("'\"")
    if word.startswith(("uni", "use", "eur", "one", "u-")):
        return "a"
    return "an" if word[:1] in tuple("aeio8") or word.startswith(("un", "um", "up", "ur", "11 ", "18 ")) else "a"


_DANGLING = frozenset("with without and or x of for in on a an the to under at from - &".split())


def _clip(text: str, words: int) -> str:
    """The first words of a phrase, never ending in a dangling preposition, number sign or comma."""
    kept = text.split()[:words]
    while len(kept) > 1 and kept[-1].strip(",.").lower() in _DANGLING:
        kept.pop()
    return " ".join(kept).rstrip(",.;:")


def size_phrase(width: float, depth: float, height: float) -> str:
    """Real size as words, from width (x), depth (z) and height (y) in centimetres."""
    first, second, third = (_centimetres(value) for value in (width, depth, height))
    return f"about {first} wide, {second} deep and {third} high"


def _centimetres(value: float) -> str:
    return f"{value:.0f} cm" if value >= 10 else f"{max(value, 0.1):.1f} cm".replace(".0 ", " ")


def proportion_fact(width: float, depth: float, height: float) -> str:
    """A sentence on the proportions, only when they are marked enough to be plainly true; otherwise an empty text."""
    low, middle, high = sorted((width, depth, height))
    if high <= 0:
        return ""
    if low < 0.12 * high and middle > 0.5 * high:
        return "It is very flat: its thickness is small beside its other two sides."
    if height == high and middle < 0.45 * high:
        return "It is tall and slender, much higher than it is wide."
    if height == low and low < 0.4 * middle:
        return "It is low and broad, much wider than it is high."
    if middle < 0.35 * high:
        return "It is long and narrow."
    if low > 0.85 * high:
        return "It is compact, with nearly equal width, depth and height."
    return ""


def color_names(pixels: np.ndarray, main: float = 0.4, second: float = 0.25) -> list[str]:
    """Up to two colour names of pixels (N,3) sRGB 0..255: the most frequent when it covers at least `main` of them, and
    the next when it covers `second`. Empty when no colour prevails."""
    if len(pixels) == 0:
        return []
    lab = to_lab(np.asarray(pixels, dtype=np.float64))
    nearest = np.linalg.norm(lab[:, None, :] - _ANCHORS[None, :, :], axis=2).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(COLOR_NAMES)) / len(pixels)
    names = list(COLOR_NAMES)
    first, next_ = np.argsort(-counts, kind="stable")[:2]
    if counts[first] < main:
        return []
    return [names[first], names[next_]] if counts[next_] >= second else [names[first]]


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (N,3), D65, of sRGB (N,3) in 0..255."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    curve = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16.0 / 116.0)
    return np.stack(
        [116.0 * curve[:, 1] - 16.0, 500.0 * (curve[:, 0] - curve[:, 1]), 200.0 * (curve[:, 1] - curve[:, 2])], axis=1
    )


_ANCHORS = to_lab(np.array(list(COLOR_NAMES.values()), dtype=np.float64))


def plain_words(text: str, replacements: dict[str, str]) -> str:
    """Lower-case text with one space between words and the given words replaced (keys lower case, "" drops the word)."""
    words = re.sub(r"\s+", " ", text.lower()).strip()
    for key in sorted(replacements, key=len, reverse=True):
        words = re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", replacements[key], words)
    return re.sub(r"\s+", " ", words).replace(" ,", ",").strip(" ,-")
