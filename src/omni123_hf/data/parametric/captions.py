"""Template captions at three lengths, truthful to the program: short 1-5, medium 10-25, long 40-70 words.

Attributes that share a noun make one phrase ("four tapered metal legs"); attributes of the whole object become adjectives.
Which ones are told, and in which words, is random.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from omni123_hf.data.parametric.base import Attribute, Program, Value, get_category


COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SINGULAR = {"shelves": "shelf", "leaves": "leaf", "feet": "foot", "teeth": "tooth", "rubber feet": "rubber foot"}
TAIL = re.compile(r" (?:on|at|of|in|under|inside) ")  # what follows does not decide the number of a noun
LIMITS = {"short": (1, 5), "medium": (10, 25), "long": (40, 70)}
ORDER = {"count": 0, "size": 1, "choice": 2, "flag": 3, "color": 4}

SHORT_FORMS = ("{a} {n}", "{n} with {p}", "{a1} {n} with {p}", "{a1} {n}")
MEDIUM_OPENINGS = ("{x}", "a 3D model of {x}", "this is {x}", "a simple {x_bare}", "an object: {x}")
LONG_OPENINGS = (
    "This is {x}.",
    "The 3D model shows {x}.",
    "The object is {x}.",
    "Here we see {x}.",
    "A clean 3D model of {x}.",
)
LONG_PARTS = ("It has {p}.", "The {n} has {p}.", "It comes with {p}.", "There is also {p}.", "One can see {p}.")
ABSENT = ("It has {p}.", "There is {p}.", "The {n} has {p}.")
SUMMARIES = ("It is {s}.", "Such an object is {s}.", "A {c} is {s}.", "The {n} is {s}.")
CLOSINGS = (
    "The object stands upright and its front faces the viewer.",
    "All parts are joined into one solid shape.",
    "The shape is plain, with clean edges and smooth surfaces.",
    "Each part is painted in one plain colour.",
    "The model is shown alone on a plain background.",
    "The style is simple and easy to recognize.",
)


@dataclass(frozen=True)
class Phrases:
    """What can be said about a program: adjectives of the object, parts that it has, parts that it lacks."""

    adjectives: list[str]
    parts: list[list[str]]  # each part: modifiers followed by the noun; a bare part that says nothing is left out
    absent: list[str]


def article(words: str) -> str:
    """`words` with "a" or "an" (only "hourglass" starts with a silent letter here)."""
    return f"{'an' if words[0] in 'aeiou' or words.startswith('hour') else 'a'} {words}"


def is_plural(noun: str) -> bool:
    """Whether a part name is a plural ("legs", "four posts")."""
    head = TAIL.split(noun)[0]
    return head in SINGULAR or head.endswith(("feet", "teeth")) or (head.endswith("s") and not head.endswith("ss"))


def singular(noun: str) -> str:
    """Singular of a part name ("layers of leaves" -> "layer of leaves")."""
    head = TAIL.split(noun)[0]
    one = SINGULAR.get(head, head[:-1] if is_plural(head) else head)
    return one + noun[len(head) :]


def word_of(attribute: Attribute, value: Value) -> str:
    """Modifier of a value; "" when there is nothing to say (a middle size)."""
    if attribute.kind == "size":
        return attribute.size_class(float(value))
    if attribute.kind == "count":
        return COUNTS[int(value)]
    return "" if attribute.kind == "flag" else str(value).replace("_", " ")


def is_absent(attribute: Attribute, value: Value) -> bool:
    """Whether the value means that the part does not exist."""
    return value is False or value == "none" or (attribute.kind == "count" and value == 0)


def describe(program: Program) -> Phrases:
    """Sort the attributes of a program into adjectives, present parts and absent parts."""
    kind = get_category(program.category)
    adjectives: list[tuple[int, str]] = []
    groups: dict[str, list[tuple[int, str]]] = {}
    gone: dict[str, str] = {}
    optional = {
        v.noun for v in kind.attributes.values() if v.kind == "flag" or (v.kind == "choice" and "none" in v.values)
    }
    for name, attribute in kind.attributes.items():
        value = program.attributes[name]
        if is_absent(attribute, value):
            gone[attribute.noun] = "" if "{}" in attribute.noun else f"no {attribute.noun}"
            continue
        word, order = word_of(attribute, value), 5 if name == "type" else ORDER[attribute.kind]  # "red pickup car"
        if not attribute.noun:
            adjectives += [(order, word)] if word else []
        else:
            groups.setdefault(attribute.noun, [])
            groups[attribute.noun] += [(order, word)] if word else []
    parts = []
    for noun, words in groups.items():
        if noun in gone:
            continue
        if "{}" in noun:  # the choice names the part; other words stand before it
            named = next(word for order, word in words if order == ORDER["choice"])
            parts.append([*(word for order, word in words if order != ORDER["choice"]), noun.format(named)])
            continue
        one = any(word == "one" for order, word in words if order == 0)
        told = [word for order, word in sorted(words) if word != "one"]
        if one:
            parts.append([f"one {' '.join([*told, singular(noun)])}"] if not told else [*told, singular(noun)])
        elif told or noun in optional:
            parts.append([*told, noun])
    return Phrases([word for _, word in sorted(adjectives)], parts, [text for text in gone.values() if text])


def part_phrase(words: list[str], rng: np.random.Generator, keep: float = 0.75) -> str:
    """A part with a random subset of its modifiers: "four metal legs", "a round handle"."""
    told = [word for word in words[:-1] if word in COUNTS or rng.random() < keep]
    if not told and len(words) > 1 and keep > 0:
        told = [words[int(rng.integers(len(words) - 1))]]
    text = " ".join([*told, words[-1]])
    return text if is_plural(words[-1]) or text.startswith("one ") else article(text)


def join(items: list[str]) -> str:
    """ "a, b and c"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def pick(items: list[str], number: int, rng: np.random.Generator) -> list[str]:
    """`number` random items in their original order."""
    chosen = sorted(rng.permutation(len(items))[:number].tolist())
    return [items[i] for i in chosen]


def short_caption(program: Program, phrases: Phrases, noun: str, form: str, rng: np.random.Generator) -> str:
    """One short caption in a given form; falls back to fewer words until it fits."""
    adjectives = phrases.adjectives
    part = phrases.parts[int(rng.integers(len(phrases.parts)))] if phrases.parts else None
    for tell, short in ((1.0, False), (0.5, False), (0.5, True), (0.5, True)):
        values = {
            "n": noun,
            "a": " ".join(pick(adjectives, 2, rng)),
            "a1": " ".join(pick(adjectives, 1, rng)),
            "p": part_phrase(part, rng, tell) if part else "",
        }
        if short and part:  # "table lamp with blue shade"
            values["p"] = " ".join([*pick(part[:-1], 1, rng), part[-1]])
        text = " ".join(form.format(**values).split())
        if part is None:
            text = text.removesuffix(" with")
        if len(text.split()) <= LIMITS["short"][1]:
            return text
    return " ".join([*pick(adjectives, 1, rng), noun])


def medium_caption(program: Program, phrases: Phrases, noun: str, rng: np.random.Generator) -> str:
    """One medium caption: adjectives, noun and as many parts as fit."""
    low, high = LIMITS["medium"]
    adjectives = pick(phrases.adjectives, int(rng.integers(1, 4)), rng)
    bare = " ".join([*adjectives, noun])
    order = rng.permutation(len(phrases.parts))[: int(rng.integers(2, 5))]
    parts = [part_phrase(phrases.parts[index], rng) for index in order]
    if phrases.absent and rng.random() < 0.25:
        parts.insert(0, phrases.absent[int(rng.integers(len(phrases.absent)))])
    form = MEDIUM_OPENINGS[int(rng.integers(len(MEDIUM_OPENINGS)))]
    while True:
        tail = f" with {join(parts[::-1])}" if parts else ""
        text = form.format(x=article(bare) + tail, x_bare=bare + tail)
        if len(text.split()) <= high:
            break
        parts.pop(0)
    if len(text.split()) < low:
        text += f", {get_category(program.category).summary}"
    if len(text.split()) < low:
        text += ", shown alone on a plain background"
    return text


def long_caption(program: Program, phrases: Phrases, noun: str, rng: np.random.Generator) -> str:
    """One long caption: an opening with the adjectives, sentences about parts, what it is, and closings up to length."""
    low, high = LIMITS["long"]
    kind = get_category(program.category)
    adjectives = pick(phrases.adjectives, max(1, len(phrases.adjectives) - int(rng.integers(0, 2))), rng)
    opening = LONG_OPENINGS[int(rng.integers(len(LONG_OPENINGS)))]
    sentences = [opening.format(x=article(" ".join([*adjectives, noun])))]
    parts = [part_phrase(phrases.parts[i], rng, 0.9) for i in rng.permutation(len(phrases.parts))]
    while parts:
        number = int(rng.integers(1, 4))
        form = LONG_PARTS[int(rng.integers(len(LONG_PARTS)))]
        told, parts = parts[:number], parts[number:]
        if form.startswith("There is") and not told[0].startswith(("a ", "an ")):
            form = "It has {p}."
        sentences.append(form.format(p=join(told), n=noun))
    if phrases.absent and rng.random() < 0.6:
        form = ABSENT[int(rng.integers(len(ABSENT)))]
        missing = pick(phrases.absent, int(rng.integers(1, 3)), rng)
        if form.startswith("There is") and is_plural(missing[0]):
            form = "It has {p}."
        sentences.append(form.format(p=join(missing), n=noun))
    form = SUMMARIES[int(rng.integers(len(SUMMARIES)))]
    about = form.format(s=kind.summary, c=kind.name, n=noun)
    if kind.name[0] in "aeiou":
        about = about.replace(f"A {kind.name} ", f"An {kind.name} ")
    sentences.insert(int(rng.integers(1, 3)), about)
    for index in rng.permutation(len(CLOSINGS)):
        if len(" ".join(sentences).split()) >= low:
            break
        sentences.append(CLOSINGS[index])
    while len(" ".join(sentences).split()) > high:
        sentences.pop()
    return " ".join(sentences)


def captions(program: Program, rng: np.random.Generator) -> dict[str, list[str]]:
    """`{"short": 3, "medium": 3, "long": 2}` captions of a program; words within `LIMITS`."""
    kind = get_category(program.category)
    phrases = describe(program)

    def noun() -> str:
        if kind.synonyms and rng.random() < 0.2:
            return kind.synonyms[int(rng.integers(len(kind.synonyms)))]
        return kind.name

    short: list[str] = []
    for attempt in range(20):  # three different ones, as far as the program has that much to say
        form = SHORT_FORMS[int(rng.integers(len(SHORT_FORMS)))]
        text = short_caption(program, phrases, noun(), form, rng)
        if len(short) < 3 and (text not in short or attempt > 16):
            short.append(text)
    return {
        "short": short,
        "medium": [medium_caption(program, phrases, noun(), rng) for _ in range(3)],
        "long": [long_caption(program, phrases, noun(), rng) for _ in range(2)],
    }
