"""The LDraw part library: toy building brick parts as nested text files, one title line each.

Format (LDraw file format 1.0.2): line type 1 places another file by a matrix, 3 and 4 are a triangle and a
quadrilateral, 0 is a comment or a command. Colour 16 means "the colour of whoever uses this file". The y axis points
down and the front is -z, so half a turn about x gives our frame.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import trimesh

from ...errors import Omni123Error, RejectedError
from ...geometry.loading import LoadBudget, register_format
from ...geometry.loading.files import ModelFile, read_confined
from ...geometry.loading.surface import DEFAULT_COLOR, Surface
from .base import MAX_FACES, SourceAsset, build_mesh, seeded_generator
from .captions import Description, describe, plain_words
from .ldraw_words import FIXED_COLORS, FRANCHISES, GROUPS, PRODUCT_LINES, SKIPPED_TITLES


SOURCE = "ldraw"
LICENCES = {"2.0": "CC-BY-2.0", "4.0": "CC-BY-4.0"}
INHERIT = 16
MAX_DEPTH = 24
MAX_FILE_BYTES = 16 * 2**20

# One LDraw unit is 0.4 mm; a stud pitch is 20 units.
METRES_PER_UNIT = 0.0004
CENTIMETRES_PER_STUD = 0.8

# Common solid colours of LDConfig.ldr and their plain names. A part has no colour of its own: it gets one of these.
PART_COLORS = {
    "Red": "red", "Blue": "blue", "Yellow": "yellow", "Green": "green", "White": "white", "Black": "black",
    "Light_Bluish_Grey": "light grey", "Dark_Bluish_Grey": "dark grey", "Tan": "tan", "Reddish_Brown": "brown",
    "Orange": "orange", "Lime": "lime green", "Dark_Blue": "dark blue", "Dark_Green": "dark green",
    "Dark_Red": "dark red", "Bright_Pink": "pink", "Medium_Blue": "medium blue", "Purple": "purple",
}  # fmt: skip

# Line commands that matter here.
_BFC = re.compile(r"^0\s+BFC\s+(.*)$", re.IGNORECASE)


@dataclass(frozen=True)
class LDrawAsset(SourceAsset):
    """One part; `root` is the library folder, `color` the RGB of its colour-16 faces."""

    root: str = ""
    color: tuple[int, int, int] = (150, 150, 150)

    def load(self) -> trimesh.Trimesh:
        """The part with its nested files, in its drawn colour: y up, front +z, metres."""
        library = open_library(self.root, str(Path(self.root) / "LDConfig.ldr"))
        triangles, codes = library.compile(f"parts/{Path(self.path).name}", 0, ())
        if len(triangles) > MAX_FACES:
            raise Omni123Error(f"{self.id}: {len(triangles)} faces, more than {MAX_FACES}; leave this asset out")
        surface = _to_surface(triangles, library.rgb(codes, self.color))
        return build_mesh(surface.vertices, surface.faces, surface.colors, self.id)


def read_ldraw(model: ModelFile) -> Surface:
    """The surface of a `.dat` or `.ldr` file, for `geometry.loading.load_mesh`; colour 16 is light grey.

    The files that it names are looked for beside it and, when the root is an LDraw library (`parts/`, `p/`), there.
    """
    if model.folder is None or model.root is None:
        raise RejectedError("unsupported_format", f"{model.name}: LDraw files are not read from archives; unpack them")
    config = model.root / "LDConfig.ldr"
    if not config.is_file():
        model.files.missing.append(config.name)
    library = PartLibrary(model.root, config if config.is_file() else None, beside=model.folder, budget=model.budget)
    if len(model.data) > MAX_FILE_BYTES:
        raise RejectedError("file_too_large", f"{model.name} is larger than {MAX_FILE_BYTES} bytes; leave it out")
    text = model.data.decode("utf-8", "replace")
    triangles, codes = library.parse(text, model.name, 0, (model.name.lower(),))
    return _to_surface(triangles, library.rgb(codes, DEFAULT_COLOR))


register_format((".dat", ".ldr"), read_ldraw)


def _to_surface(triangles: np.ndarray, colors: np.ndarray) -> Surface:
    """Triangles (F,3,3) in LDraw units and frame as a surface in metres, y up, front +z."""
    vertices = triangles.reshape(-1, 3).astype(np.float64) * (np.array([1.0, -1.0, -1.0]) * METRES_PER_UNIT)
    return Surface(vertices, np.arange(len(vertices)).reshape(-1, 3), colors)


class PartLibrary:
    """Files of one LDraw library, compiled to triangles and kept: studs and boxes are used by thousands of parts.

    config: its `LDConfig.ldr`; None leaves every colour code but direct ones unknown. beside: a folder of a model's own
    files, sought first. budget: of one model, that the files read are counted to.
    """

    def __init__(
        self, root: Path, config: Path | None, beside: Path | None = None, budget: LoadBudget | None = None
    ) -> None:
        self.root = root
        self._budget = budget
        self._real_root = Path(os.path.realpath(root))
        self.names, self.values = read_colors(config) if config is not None else ({}, {})
        self._index: dict[str, Path] = {}
        # Search order of the format: parts before primitives; a name is matched without case.
        found = [(root / folder, path) for folder in ("p", "parts") for path in sorted((root / folder).rglob("*.dat"))]
        if beside is not None:
            own = [path for pattern in ("*.dat", "*.ldr", "s/*.dat") for path in sorted(beside.glob(pattern))]
            found += [(beside, path) for path in own]
        for folder, path in found:
            self._index[path.relative_to(folder).as_posix().lower()] = path
        self._compiled: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def compile(self, name: str, depth: int, stack: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Triangles (F,3,3) float32 in LDraw units, counter-clockwise where the file says so, and colours (F,) int64.

        Raises Omni123Error for a missing file, a broken line, a reference cycle or nesting beyond `MAX_DEPTH`.
        """
        key = name.replace("\\", "/").lower().removeprefix("parts/")
        if key in self._compiled:
            return self._compiled[key]
        if key in stack:
            raise RejectedError(
                "reference_cycle",
                f"LDraw file {name} refers to itself through {' > '.join(stack)}; leave this part out",
            )
        if depth > MAX_DEPTH:
            raise RejectedError(
                "too_deep", f"LDraw file {name} is nested deeper than {MAX_DEPTH}; leave this part out"
            )
        path = self._index.get(key)
        if path is None:
            detail = f"LDraw file {name[:80]} is not in the library {self.root.name}; leave this part out"
            raise RejectedError("missing_file", detail)
        data = read_confined(path, self._real_root, MAX_FILE_BYTES)
        if data is None:
            raise RejectedError("missing_file", f"LDraw file {name[:80]} is gone from the library {self.root.name}")
        if self._budget is not None:
            self._budget.spend_file(len(data), name[:80])
        result = self.parse(data.decode("utf-8", "replace"), name, depth, (*stack, key))
        # A top-level part is used once; what it is made of is used again.
        if depth > 0:
            self._compiled[key] = result
        return result

    def parse(self, text: str, name: str, depth: int, stack: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """As `compile`, of a file's text; `stack` are the files that led here, this one last."""
        own: list[list[float]] = []
        own_codes: list[int] = []
        blocks: list[np.ndarray] = []
        block_codes: list[np.ndarray] = []
        total = 0
        clockwise = False
        invert_next = False
        for line in text.splitlines():
            words = line.split()
            if not words:
                continue
            kind = words[0]
            if kind == "0":
                match = _BFC.match(line.strip())
                if match:
                    commands = match[1].upper().split()
                    invert_next = "INVERTNEXT" in commands
                    clockwise = "CW" in commands or (clockwise and "CCW" not in commands)
                continue
            try:
                if kind == "1":
                    numbers = np.array(words[2:14], dtype=np.float32)
                    triangles, codes = self._place(" ".join(words[14:]), numbers, invert_next, depth, stack)
                    blocks.append(triangles)
                    block_codes.append(np.where(codes == INHERIT, _color_code(words[1]), codes))
                    total += len(triangles)
                elif kind == "3":
                    a, b, c = _points(words, 3)
                    own.append([*a, *c, *b] if clockwise else [*a, *b, *c])
                    own_codes.append(_color_code(words[1]))
                elif kind == "4":
                    a, b, c, d = _points(words, 4)
                    own.extend([[*a, *c, *b], [*a, *d, *c]] if clockwise else [[*a, *b, *c], [*a, *c, *d]])
                    own_codes.extend([_color_code(words[1])] * 2)
            except (ValueError, IndexError) as error:
                if isinstance(error, Omni123Error):
                    raise
                detail = f"broken LDraw line {line.strip()[:120]!r} in {name[:80]}: {error}"
                raise RejectedError("broken_file", detail) from error
            invert_next = False
            if total + len(own) > 4 * MAX_FACES:
                detail = f"LDraw file {name} has more than {4 * MAX_FACES} faces; leave this part out"
                raise RejectedError("too_many_faces", detail)
        if own:
            blocks.append(np.array(own, dtype=np.float32).reshape(-1, 3, 3))
            block_codes.append(np.array(own_codes, dtype=np.int64))
        if not blocks:
            return np.zeros((0, 3, 3), dtype=np.float32), np.zeros(0, dtype=np.int64)
        return np.concatenate(blocks), np.concatenate(block_codes)

    def _place(
        self, child: str, numbers: np.ndarray, invert: bool, depth: int, stack: tuple[str, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Triangles of a child file moved by a type-1 line: x y z, then the 3x3 matrix row by row."""
        triangles, codes = self.compile(child, depth + 1, stack)
        if len(numbers) != 12 or not np.isfinite(numbers).all():
            raise RejectedError(
                "broken_file", f"a reference to {child[:80]} does not have twelve finite numbers; leave this part out"
            )
        matrix = numbers[3:].reshape(3, 3)
        placed = triangles @ matrix.T + numbers[:3]
        # A mirror turns every face inside out, and so does INVERTNEXT.
        if (np.linalg.det(matrix.astype(np.float64)) < 0) != invert:
            placed = placed[:, ::-1]
        return placed, codes

    def rgb(self, codes: np.ndarray, inherited: tuple[int, int, int]) -> np.ndarray:
        """(F,3) uint8 of colour codes; `inherited` stands for colour 16, unknown codes are mid grey."""
        unique, inverse = np.unique(codes, return_inverse=True)
        table = np.array([self._rgb_of(int(code), inherited) for code in unique], dtype=np.uint8).reshape(-1, 3)
        return table[inverse]

    def _rgb_of(self, code: int, inherited: tuple[int, int, int]) -> tuple[int, int, int]:
        if code == INHERIT:
            return inherited
        if code >= 0x2000000:
            return (code >> 16) & 255, (code >> 8) & 255, code & 255
        return self.values.get(code, (128, 128, 128))


def _points(words: list[str], count: int) -> list[tuple[float, ...]]:
    if len(words) < 2 + 3 * count:
        raise RejectedError(
            "broken_file", f"an LDraw face line has {len(words) - 2} numbers, not {3 * count}; leave this part out"
        )
    values = [float(word) for word in words[2 : 2 + 3 * count]]
    return [tuple(values[index : index + 3]) for index in range(0, 3 * count, 3)]


def _color_code(word: str) -> int:
    code = int(word, 16) if word.lower().startswith("0x") else int(word)
    if not 0 <= code < 2**31:
        raise ValueError(f"{word[:20]} is no colour")
    return code


@lru_cache(maxsize=4)
def open_library(root: str, config: str) -> PartLibrary:
    """The library under `root`, read once in a process."""
    return PartLibrary(Path(root), Path(config))


def read_colors(config: Path) -> tuple[dict[str, int], dict[int, tuple[int, int, int]]]:
    """Codes by name and RGB by code of an `LDConfig.ldr`. Raises Omni123Error when it holds no colour."""
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    names: dict[str, int] = {}
    values: dict[int, tuple[int, int, int]] = {}
    for name, code, value in re.findall(
        r"^0\s+!COLOUR\s+(\S+)\s+CODE\s+(\d+)\s+VALUE\s+#([0-9A-Fa-f]{6})", text, re.M
    ):
        names[name] = int(code)
        values[int(code)] = (int(value[:2], 16), int(value[2:4], 16), int(value[4:], 16))
    if not values:
        raise Omni123Error(f"{config} is missing or lists no colours; the LDraw library is incomplete, fetch it again")
    return names, values


def find_root(root: Path | str) -> Path:
    """Folder with `parts/`, `p/` and `LDConfig.ldr` at or under `root`. Raises Omni123Error when there is none."""
    base = Path(root)
    for candidate in (base, base / "usr/share/ldraw", *(path.parent for path in sorted(base.glob("*/LDConfig.ldr")))):
        if (candidate / "parts").is_dir() and (candidate / "p").is_dir() and (candidate / "LDConfig.ldr").is_file():
            return candidate
    raise Omni123Error(f"no LDraw library (parts/, p/, LDConfig.ldr) under {root}; run 'omni123 data fetch ldraw'")


def iter_assets(root: Path | str) -> Iterator[LDrawAsset]:
    """Usable parts under `root`, by file name: no stickers, printed patterns, aliases, moved parts or subparts.

    Parts with the same title but for colour words, and letter variants of one part number, are given once. Only header
    and colour lines are looked at here; the geometry is read by `load`.
    """
    library = find_root(root)
    names, values = read_colors(library / "LDConfig.ldr")
    palette = {name: values[names[name]] for name in PART_COLORS if name in names}
    if not palette:
        raise Omni123Error(f"{library / 'LDConfig.ldr'} lists none of the common colours; fetch the library again")
    seen_titles: set[str] = set()
    seen_numbers: set[tuple[str, str]] = set()
    for path in sorted((library / "parts").glob("*.dat")):
        text = path.read_text(encoding="utf-8", errors="replace")
        title = re.sub(r"\s+", " ", text.split("\n", 1)[0][2:]).strip()
        licence = _licence(text)
        if licence is None or not _is_usable(title, text):
            continue
        stem = _title_stem(title)
        number = re.sub(r"(?<=\d)[a-z]$", "", path.stem.lower())
        if stem in seen_titles or (number, stem.split(" with ")[0]) in seen_numbers:
            continue
        seen_titles.add(stem)
        seen_numbers.add((number, stem.split(" with ")[0]))
        yield _asset(library, path, title, text, licence, palette)


def _is_usable(title: str, text: str) -> bool:
    if not title or title[0] in "~=_|" or SKIPPED_TITLES.search(title) or FRANCHISES.search(title):
        return False
    kind = re.search(r"^0\s+!LDRAW_ORG\s+(.*)$", text, re.MULTILINE)
    return kind is None or not re.search(r"subpart|primitive|alias|physical_colour", kind[1], re.IGNORECASE)


def _licence(text: str) -> str | None:
    match = re.search(r"^0\s+!LICENSE\s+(.*)$", text, re.MULTILINE)
    if match is None or "not redistributable" in match[1].lower():
        return None
    version = re.search(r"(?:CCAL version|CC BY|CC-BY)\s*(\d\.\d)", match[1], re.IGNORECASE)
    return LICENCES.get(version[1]) if version else None


def _title_stem(title: str) -> str:
    """Title without colour words and spacing: what is left alike is the same shape in other colours."""
    words = re.sub(r"[^a-z0-9./#&()-]+", " ", title.lower())
    return re.sub(r"\s+", " ", FIXED_COLORS.sub(" ", words)).strip()


def _asset(
    library: Path, path: Path, title: str, text: str, licence: str, palette: dict[str, tuple[int, int, int]]
) -> LDrawAsset:
    identity = f"{SOURCE}/{path.stem}"
    rng = seeded_generator(identity)
    stated = re.search(r"^0\s+!CATEGORY\s+(.+)$", text, re.MULTILINE)
    group = (stated[1] if stated else title.split()[0]).strip().lower()
    names = list(palette)
    # A tyre is black; every other part may have any colour.
    chosen = "Black" if group == "tyre" and "Black" in palette else names[int(rng.integers(len(names)))]
    # Only a part that fixes no colour of its own is plainly "a red ...".
    codes = {match.lower() for match in re.findall(r"^\s*[134]\s+(\S+)\s", text, re.MULTILINE)}
    colored = codes == {str(INHERIT)}
    author = re.search(r"^0\s+Author:\s*(.*)$", text, re.MULTILINE)
    name = plain_title(title)
    category = GROUPS.get(group, group)
    keywords = [word.strip() for line in re.findall(r"^0\s+!KEYWORDS\s+(.*)$", text, re.M) for word in line.split(",")]
    description = Description(
        name=name,
        colors=[PART_COLORS[chosen]] if colored else [],
        origin=f"the {category} group of a toy building brick library",
        facts=_facts(name),
    )
    return LDrawAsset(
        id=identity,
        source=SOURCE,
        name=name,
        category=category,
        captions=describe(description, rng),
        licence=licence,
        attribution=f"LDraw Parts Library, part {path.stem} by {author[1].strip() if author else 'unknown'}, {licence}",
        path=str(path),
        attributes={"title": title, "keywords": keywords, "color": PART_COLORS[chosen] if colored else None},
        root=str(library),
        color=palette[chosen],
    )


def plain_title(title: str) -> str:
    """A part title as a plain phrase without product-line names: "Brick  2 x  4" gives "building brick 2 x 4"."""
    words = re.sub(r"\((?:needs work|complete|obsolete)\)", "", title, flags=re.IGNORECASE)
    words = plain_words(re.sub(r"[()#]", " ", words), PRODUCT_LINES)
    words = re.sub(r"^slope brick", "sloped brick", words)
    words = re.sub(r"^(?:animal|plant) (?=[a-z]{3})", "", words)
    words = re.sub(r"\b(\d+)l\b", r"\1 studs long", words)
    words = re.sub(r"^(brick|plate|tile|slope|baseplate)\b", lambda match: GROUPS[match[1]], words)
    return words or "building brick part"


def _facts(name: str) -> list[str]:
    """Sentences from the title: its size in studs, and that it is one part of a set."""
    facts = []
    size = re.search(r"(?:brick|plate|tile|slope|panel|door|window|arch|wedge)\b[^0-9]*(\d+) x (\d+)(?! x|\.)", name)
    if size:
        first, second = int(size[1]), int(size[2])
        facts.append(
            f"It is {first} by {second} studs large, which is {first * CENTIMETRES_PER_STUD:.1f} by"
            f" {second * CENTIMETRES_PER_STUD:.1f} centimetres."
        )
    facts.append("It is one part of a construction toy, made of plastic and meant to be joined with other parts.")
    return facts
