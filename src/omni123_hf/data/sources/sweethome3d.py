"""Sweet Home 3D furniture libraries (`.sh3f`, a zip of OBJ models with a properties catalogue).

Only models whose licence is CC0 or CC-BY are given. The licence is read from the library's own `LICENSE.TXT` and, where
a model's folder has a licence file of its own, from that: it is the stricter word on that model.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from ...errors import Omni123Error, RejectedError
from ...geometry.loading import register_format
from ...geometry.loading.archive import ArchiveFiles, open_archive
from ...geometry.loading.files import ModelFile
from ...geometry.loading.surface import Surface
from ...geometry.loading.wavefront import read_obj, read_wavefront
from .base import SourceAsset, build_mesh, seeded_generator
from .captions import Description, color_names, describe, plain_words, proportion_fact, size_phrase


SOURCE = "sweethome3d"
CATALOG = "PluginFurnitureCatalog.properties"
MAX_TEXT_BYTES = 32 * 2**20
MAX_IMAGE_BYTES = 16 * 2**20
MAX_IMAGE_PIXELS = 64 * 2**20

# Side at which the catalogue's models are coloured. The prepared data sets were made with it.
TEXTURE_SIZE = 256

# Tags that name a collection, not the thing.
IGNORED_TAGS = frozenset({"blend swap", "scpts", "haussmann", "adjustable", "4", "four"})

# Brands and wrong or shortened English of the catalogue, in plain words.
PLAIN_NAMES = {
    "apple iphone": "smartphone", "apple ibook": "laptop computer", "apple imac 1998": "all-in-one desktop computer",
    "apple imac 2004": "desktop computer with a round base", "ford focus": "hatchback car", "vw new beetle": "small round car",
    "peugeot 308 cc": "convertible car", "renault scenic": "family car", "seat leon": "hatchback car",
    "chevrolet": "car", "smart car": "very small car", "yamaha yzr r6": "racing motorcycle", "playstation": "game console",
    "rubik's cube": "colour puzzle cube", "winchester armchair": "buttoned leather armchair", "winchester sofa": "buttoned leather sofa",
    "concept sedan 01": "sedan car", "concept sedan 02": "sedan car", "concept sedan 02 sport": "sports sedan car",
    "jacuzzi": "whirlpool bath", "teck chair": "teak chair", "trunck": "trunk", "hashtray": "ashtray", "barnum": "party tent",
    "flipper": "pinball machine", "little bank": "small bench", "wood bank": "wooden bench", "gaz water heater": "gas water heater",
    "toilets unit": "toilet", "dart game": "dartboard", "puff": "pouf", "mocassin": "moccasin shoe", "bootie": "ankle boot",
    "cctv": "surveillance camera", "tv 16:9": "widescreen television", "tv": "television", "convertible sofa bz": "folding sofa bed",
    "opened convertible sofa bz": "opened folding sofa bed", "children game": "toy", "potty": "children's potty",
    "bended coconut tree": "bent coconut tree", "screen": "folding screen", "frame chambord": "framed picture",
    "frame hôi an": "framed picture", "male": "standing man", "female": "standing woman", "sitting male": "sitting man",
    "sitting female": "sitting woman", "holding male": "standing man with raised arms", "holding female": "standing woman with raised arms",
    "lying down male": "lying man", "lying down female": "lying woman", "boy": "standing boy", "girl": "standing girl",
    "lying down boy": "lying boy", "mannequin male": "man's mannequin", "mannequin female": "woman's mannequin",
    "bill 10€": "banknote", "bill 20€": "banknote", "bill 50€": "banknote", "air conditioning - external unit": "outdoor air conditioning unit",
    "air conditioning - internal unit": "indoor air conditioning unit", "number lock": "combination padlock", "oil servers": "oil bottles",
}  # fmt: skip
PAIRS = frozenset("scissors headphones slippers sneakers trousers sunglasses pliers shoes".split())
PLURALS = frozenset("apples shelves tulips glasses keys flowers orchids fries logs clothes lights rails tools".split())


@dataclass(frozen=True)
class SweetHome3DAsset(SourceAsset):
    """One catalogue entry; `member` is the OBJ inside the library, sizes are (width x, height y, depth z) in centimetres."""

    member: str = ""
    size_cm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: tuple[float, ...] = ()

    def load(self) -> trimesh.Trimesh:
        """The model turned by the catalogue's rotation and scaled to its real size: y up, front +z, metres."""
        archive = _open_library(self.path)
        folder = posixpath.dirname(self.member)
        vertices, faces, colors = read_obj(
            _read_text(archive, self.member, self.id),
            lambda name: _text_beside(archive, folder, name, self.id),
            lambda name: _image_beside(archive, folder, name, self.id),
            texture_size=TEXTURE_SIZE,
        )
        vertices = _to_real_size(vertices, faces, self.rotation, self.size_cm, self.id)
        return build_mesh(vertices, faces, colors, self.id)


def _to_real_size(
    vertices: np.ndarray,
    faces: np.ndarray,
    rotation: tuple[float, ...],
    size_cm: tuple[float, float, float],
    label: str,
) -> np.ndarray:
    """Vertices (V,3) turned by the catalogue's rotation and stretched to its size, in metres."""
    if len(faces) == 0:
        raise RejectedError("no_faces", f"{label}: no visible faces; leave this asset out")
    if rotation:
        vertices = vertices @ np.asarray(rotation).reshape(3, 3).T
    used = vertices[np.unique(faces)]
    extent = used.max(axis=0) - used.min(axis=0)
    # The program stretches every model to the catalogue's size; a flat side has nothing to stretch.
    wanted = np.asarray(size_cm) / 100.0
    known = (extent > 1e-9 * extent.max()) & (wanted > 0)
    scale = np.where(known, wanted / np.where(known, extent, 1.0), 0.0)
    scale[~known] = scale[known].mean() if known.any() else 1.0
    return vertices * scale


def read_library(model: ModelFile) -> Surface:
    """The one model of a `.sh3f` file, for `geometry.loading.load_mesh`; its licence is not looked at.

    Raises RejectedError for a library of several models: `iter_assets` gives those.
    """
    archive = open_archive(model.data, model.name, model.budget.limits)
    catalog = ArchiveFiles(archive, "", model.budget).read(CATALOG)
    if catalog is None:
        raise RejectedError("no_model", f"{model.name} holds no {CATALOG}")
    entries = [entry for entry in _catalog_entries(catalog.decode("latin-1")).values() if "model" in entry]
    if len(entries) != 1:
        raise RejectedError(
            "ambiguous_archive",
            f"{model.name} lists {len(entries)} models; read libraries by iter_assets('sweethome3d', folder)",
        )
    member = _safe_member(entries[0]["model"])
    files = ArchiveFiles(archive, posixpath.dirname(member), model.budget)
    data = files.read(posixpath.basename(member))
    if data is None or not member.lower().endswith(".obj"):
        raise RejectedError("no_model", f"{model.name}: {member[:80]!r} is not an OBJ model of the library")
    surface = read_wavefront(ModelFile(member, data, files, model.budget))
    rotation, size_cm = _placing(entries[0], model.name)
    model.files.missing += files.missing
    surface.vertices = _to_real_size(surface.vertices, surface.faces, rotation, size_cm, model.name)
    return surface


register_format((".sh3f",), read_library)


def iter_assets(root: Path | str) -> Iterator[SweetHome3DAsset]:
    """Shippable assets of every `.sh3f` library under `root`, in catalogue order. Meshes are not read here.

    Libraries and models under other licences are passed over. Raises Omni123Error when `root` holds no library.
    """
    libraries = sorted(Path(root).rglob("*.sh3f"))
    if not libraries:
        raise Omni123Error(f"no .sh3f library under {root}; run 'omni123 data fetch sweethome3d' or pass its folder")
    for path in libraries:
        yield from _library_assets(path)


def library_licences(root: Path | str) -> dict[str, str | None]:
    """Licence of every library under `root` by library name; None where it is not CC0 or CC-BY, so not used."""
    return {path.stem: _library_licence(_open_library(str(path))) for path in sorted(Path(root).rglob("*.sh3f"))}


def _library_assets(path: Path) -> Iterator[SweetHome3DAsset]:
    archive = _open_library(str(path))
    library_licence = _library_licence(archive)
    if library_licence is None:
        return
    files = set(archive.namelist())
    licence_files: dict[str, str] = {}
    for name in files:
        if re.search(r"licen[cs]e", posixpath.basename(name), re.IGNORECASE) and "/" in name:
            licence_files[posixpath.dirname(name)] = name
    entries = _catalog_entries(_read_text(archive, CATALOG, path.name))
    for number, entry in sorted(entries.items()):
        member = _safe_member(entry.get("model", ""))
        if member not in files or not member.lower().endswith(".obj"):
            continue
        own = licence_files.get(posixpath.dirname(member))
        licence = classify_licence(_read_text(archive, own, path.name)) if own else library_licence
        if licence is not None:
            yield _asset(path, archive, number, entry, member, licence)


def _catalog_entries(text: str) -> dict[int, dict[str, str]]:
    """Fields of every catalogue entry by its number: the property `name#3` is the field "name" of entry 3."""
    entries: dict[int, dict[str, str]] = {}
    for key, value in parse_properties(text).items():
        field, _, number_text = key.partition("#")
        if number_text.isascii() and number_text.isdigit():
            entries.setdefault(int(number_text), {})[field] = value
    return entries


def _placing(entry: dict[str, str], label: str) -> tuple[tuple[float, ...], tuple[float, float, float]]:
    """Rotation (9 numbers, or none) and size in centimetres (width x, height y, depth z) of a catalogue entry."""
    width, depth, height = (_number(entry.get(field, "0"), label) for field in ("width", "depth", "height"))
    rotation = tuple(_number(word, label) for word in entry.get("modelRotation", "").split())
    if len(rotation) not in (0, 9):
        raise Omni123Error(f"{label}: modelRotation has {len(rotation)} numbers, not 9; the catalogue is broken")
    return rotation, (width, height, depth)


def _asset(
    path: Path, archive: zipfile.ZipFile, number: int, entry: dict[str, str], member: str, licence: str
) -> SweetHome3DAsset:
    key = entry.get("id", str(number)).split("#")[-1].strip() or str(number)
    identity = f"{SOURCE}/{path.stem}/{key}"
    rotation, size_cm = _placing(entry, identity)
    width, height, depth = size_cm
    name = plain_name(entry.get("name", key))
    room = entry.get("category", "Miscellaneous").strip().lower()
    tags = [tag.strip().lower() for tag in entry.get("tags", "").split(",")]
    tags = [tag for tag in tags if tag and tag not in IGNORED_TAGS and tag not in name]
    # The colours of a person are those of the clothes: they would not describe the object.
    colors = [] if room == "characters" else _icon_colors(archive, entry.get("icon", ""), identity)
    facts = [proportion_fact(width, depth, height)]
    if tags:
        facts.append(f"The catalogue files it under {_join(tags[:5])}.")
    if entry.get("doorOrWindow", "").lower() == "true":
        facts.append("It is meant to be set into an opening of a wall.")
    section = room if room != "miscellaneous" else "general"
    description = Description(
        name=name,
        colors=colors,
        origin=f"the {section} section of an interior design catalogue",
        size=size_phrase(width, depth, height) if min(width, depth, height) > 0 else "",
        facts=[fact for fact in facts if fact],
    )
    creator = entry.get("creator", "").strip() or "unknown author"
    return SweetHome3DAsset(
        id=identity,
        source=SOURCE,
        name=name,
        category=room,
        captions=describe(description, seeded_generator(identity)),
        licence=licence,
        attribution=f"{entry.get('name', key).strip()!r} by {creator}, Sweet Home 3D library {path.stem}, {licence}",
        path=str(path),
        attributes={"tags": tags, "colors": colors, "size_cm": [width, depth, height], "creator": creator},
        member=member,
        size_cm=size_cm,
        rotation=rotation,
    )


def plain_name(name: str) -> str:
    """Catalogue name as a plain noun phrase: lower case, no brand, "pair of"-like words where English needs them."""
    words = re.sub(r"\s+", " ", name).strip().lower()
    words = PLAIN_NAMES.get(words) or plain_words(words, {"indoor bike": "exercise bike", "tv": "television"})
    if words.split()[-1] in PAIRS:
        return f"pair of {words}"
    if words.split()[-1] in PLURALS and not words.startswith(("set of", "bowl")):
        return f"set of {words}"
    return words


_COLOR_FAMILIES = (
    {"black", "dark grey", "grey", "light grey", "white"},
    {"brown", "dark brown", "light brown", "beige", "orange"},
    {"green", "dark green", "light green"},
    {"blue", "dark blue", "light blue"},
    {"red", "dark red"},
)


def _icon_colors(archive: zipfile.ZipFile, icon: str, label: str) -> list[str]:
    """One or two colour names seen in the catalogue's rendered icon: cheap, and true to what the model shows."""
    member = _safe_member(icon) if icon else ""
    if member not in archive.NameToInfo:
        return []
    image = _decode_image(_read_bytes(archive, member, MAX_IMAGE_BYTES, label), label).convert("RGBA")
    texels = np.asarray(image).reshape(-1, 4)
    names = color_names(texels[texels[:, 3] > 200, :3])
    # Shading turns one grey or brown into its neighbours: two names of one family are one colour.
    if len(names) == 2 and any(names[0] in family and names[1] in family for family in _COLOR_FAMILIES):
        names = names[:1]
    return [{"dark grey": "dark"}.get(name, name) for name in names]


def classify_licence(text: str) -> str | None:
    """SPDX identifier of a licence text when it is CC0 or CC-BY; None for everything else (GPL, Free Art, BY-SA, NC...)."""
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).lower()
    if re.search(r"share.?alike|non.?commercial|no.?deriv|by-(sa|nc|nd)|free art|gnu|general public licen", words):
        return None
    # "Released under" and "following license" lines come first; a remark on other works may follow.
    found = re.search(r"creative commons zero|\bcc-?0\b|creative commons attribution (\d\.\d)", words)
    if found is None:
        return None
    if found[1] is None:
        return "CC0-1.0"
    united_states = "united states" in words[found.end() : found.end() + 20]
    return f"CC-BY-{found[1]}-US" if united_states else f"CC-BY-{found[1]}"


def _library_licence(archive: zipfile.ZipFile) -> str | None:
    name = next(
        (name for name in archive.namelist() if re.fullmatch(r"licen[cs]e(\.txt)?", name, re.IGNORECASE)), None
    )
    return classify_licence(_read_text(archive, name, str(archive.filename))) if name else None


def parse_properties(text: str) -> dict[str, str]:
    r"""Keys and values of a Java properties text: `#`/`!` comments, continued lines, `\uXXXX` escapes."""
    entries: dict[str, str] = {}
    pending = ""
    for raw in text.splitlines():
        line = pending + raw.lstrip()
        pending = ""
        if not line or line[0] in "#!":
            continue
        if (len(line) - len(line.rstrip("\\"))) % 2:
            pending = line[:-1]
            continue
        key, _, value = line.partition("=")
        entries[key.strip()] = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), value.strip())
    return entries


def _open_library(path: str) -> zipfile.ZipFile:
    # A forked worker must not share the parent's file offset, so every process opens its own.
    return _open_in_process(path, os.getpid())


@lru_cache(maxsize=16)
def _open_in_process(path: str, process: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise Omni123Error(f"{path} is not a readable .sh3f library ({error}); fetch it again") from error


def _safe_member(name: str) -> str:
    """Member name of a catalogue path. Nothing is ever written to disk, but a name that climbs out is still refused."""
    member = posixpath.normpath(name.strip().replace("%20", " ").lstrip("/"))
    if member.startswith("..") or "\\" in member:
        raise Omni123Error(f"the catalogue names {name!r}, which leaves the library; do not use this file")
    return member


def _read_bytes(archive: zipfile.ZipFile, member: str, limit: int, label: str) -> bytes:
    try:
        size = archive.getinfo(member).file_size
        if size > limit:
            raise Omni123Error(f"{label}: {member} has {size} bytes, more than {limit}; leave this asset out")
        with archive.open(member) as stream:
            data = stream.read(limit + 1)
    except (KeyError, zipfile.BadZipFile) as error:
        raise Omni123Error(f"{label}: {member} cannot be read ({error}); the library is broken") from error
    if len(data) > limit:
        raise Omni123Error(f"{label}: {member} unpacks to more than {limit} bytes; leave this asset out")
    return data


def _read_text(archive: zipfile.ZipFile, member: str, label: str) -> str:
    return _read_bytes(archive, member, MAX_TEXT_BYTES, label).decode("latin-1")


def _text_beside(archive: zipfile.ZipFile, folder: str, name: str, label: str) -> str | None:
    member = _safe_member(posixpath.join(folder, name))
    return _read_text(archive, member, label) if member in archive.NameToInfo else None


def _image_beside(archive: zipfile.ZipFile, folder: str, name: str, label: str) -> Image.Image | None:
    member = _safe_member(posixpath.join(folder, name))
    if member not in archive.NameToInfo:
        return None
    return _decode_image(_read_bytes(archive, member, MAX_IMAGE_BYTES, label), label)


def _decode_image(data: bytes, label: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise Omni123Error(
                f"{label}: a picture of {image.width}x{image.height} is too large; leave this asset out"
            )
        # JPEG can decode straight to a small size, which is all the colours need.
        image.draft("RGB", (TEXTURE_SIZE, TEXTURE_SIZE))
        image.load()
        return image
    except (OSError, SyntaxError) as error:
        raise Omni123Error(f"{label}: a picture cannot be read ({error}); leave this asset out") from error


def _number(text: str, label: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise Omni123Error(f"{label}: {text!r} is not a number; the catalogue is broken") from error
    if not np.isfinite(value):
        raise Omni123Error(f"{label}: {text!r} is not finite; the catalogue is broken")
    return value


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
