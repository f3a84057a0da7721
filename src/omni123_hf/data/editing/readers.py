"""Readers of editing pairs made by others: a table, a folder or a tar of mesh pairs, and Steer3D's Edit3D-Bench.

A reader lists pairs without loading meshes; `prepare_pairs` loads them. What cannot be a pair of shapes is listed with
a reason. Token pairs have a reader of their own, `token_pairs`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.editing.archives import MAX_UNPACKED_BYTES
from omni123_hf.data.editing.lineage import check_lineage
from omni123_hf.data.editing.members import Member, group_members
from omni123_hf.data.editing.mesh_pairs import MeshPairSpec
from omni123_hf.data.inputs.licences import normalise_licence
from omni123_hf.data.inputs.tables import BadRow, table_rows
from omni123_hf.data.splits import split_of
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading import LoadLimits
from omni123_hf.geometry.loading.files import relative_name


MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
MAX_WORD_BYTES = 1 << 20
TYPE_WORDS = {
    **dict.fromkeys(("add", "addition", "adding", "insert"), "add"),
    **dict.fromkeys(("remove", "removal", "delete", "deletion"), "remove"),
    **dict.fromkeys(("replace", "replacement", "swap", "modify"), "replace"),
    **dict.fromkeys(("resize", "scale", "scaling"), "resize"),
    **dict.fromkeys(("pose", "posing", "animate"), "pose"),
}
# The shape stays: nothing for a model of shapes to learn.
TEXTURE_WORDS = frozenset(("texture", "color", "colour", "material", "appearance", "style"))
NAMES = {
    "source": ("source", "source_path", "src", "source_id", "before"),
    "target": ("target", "target_path", "tgt", "tar", "target_id", "after"),
    "instruction": ("instruction", "edit_instruction", "prompt", "text", "caption", "edit"),
    "edit_type": ("edit_type", "type", "operation", "task"),
}


@dataclass(frozen=True)
class PairSetInfo:
    """What a set does not say in its files. name: start of every pair's id. chain: programs and models that made it.

    licence and attribution hold where a row has none of its own. allow_restricted: read pairs whose chain's terms bar
    training (`lineage`), with the warning in every record. allow_unknown_licence: keep pairs whose row says that its
    licence is unknown, and record just that. max_unpacked_bytes: bound on what a compressed archive unpacks to.
    """

    name: str
    licence: str
    attribution: str
    chain: tuple[str, ...]
    split_seed: int = 0
    allow_restricted: bool = False
    limits: LoadLimits = field(default_factory=LoadLimits)
    allow_unknown_licence: bool = False
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES

    def __post_init__(self) -> None:
        for key in ("name", "attribution"):
            if getattr(self, key).strip() in ("", "unknown"):
                raise Omni123Error(f"a set of editing pairs needs a {key}; state it")
        if normalise_licence(self.licence) == UNKNOWN_LICENCE and not self.allow_unknown_licence:
            raise Omni123Error(
                f"{self.name} needs a licence; state it, or keep its pairs with allow_unknown_licence (--allow-unknown-licence)"
            )
        if not self.chain:
            raise Omni123Error(f"{self.name}: say in chain which programs and models made the pairs")


@dataclass
class ReadPairs:
    """What a reader found: pairs, and what it left out as {"id", "reason", "detail"}."""

    specs: list[MeshPairSpec] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, name: str, reason: str, detail: str) -> None:
        """List a pair as left out."""
        self.skipped.append({"id": name, "reason": reason, "detail": detail})


def read_table(path: str | Path, info: PairSetInfo) -> ReadPairs:
    """Pairs of a table (CSV, JSON lines or Parquet) with columns source, target and instruction.

    Optional columns: id, object_id, edit_type, inverse_instruction, category, licence, attribution, split. Paths are
    relative to the table and stay under its folder. A row that cannot be read is skipped as "bad_row"; one without a
    needed column raises `Omni123Error`.
    """
    path, found = Path(path), ReadPairs()
    warning = check_lineage(info.chain, info.allow_restricted, info.name)
    for number, row in pair_rows(path, found):
        where = f"{path.name} row {number}"
        source, target, instruction = (_pick(row, key, where) for key in ("source", "target", "instruction"))
        sides = [Member(str(path.parent), "", _inside(name, where)) for name in (source, target)]
        _add(found, info, warning, str(row.get("id") or f"{number:07d}"), sides[0], sides[1], instruction, row)
    return _checked(found, path)


def read_mesh_pairs(path: str | Path, info: PairSetInfo) -> ReadPairs:
    """Pairs of a folder or tar by the names of its files (Nano3D-Edit style): `KEY.src.glb`, `KEY.tar.glb` and
    `KEY.txt` or `KEY.json`; see `members.role_of`. Pairs without an instruction are skipped."""
    path, found = Path(path), ReadPairs()
    warning = check_lineage(info.chain, info.allow_restricted, info.name)
    for key, members in group_members(path, MESH_SUFFIXES, info.max_unpacked_bytes):
        try:
            row = words_of(members.get("words"))
        except RejectedError as error:
            found.skip(key, error.reason, str(error))
            continue
        instruction = next((str(row[name]) for name in NAMES["instruction"] if row.get(name)), "")
        if not instruction:
            found.skip(key, "no_instruction", f"{members['source'].name} comes without words")
            continue
        _add(found, info, warning, key, members["source"], members["target"], instruction, row)
    return _checked(found, path)


def read_edit3d_bench(folder: str | Path, info: PairSetInfo) -> ReadPairs:
    """Steer3D's Edit3D-Bench: one CSV each for addition and removal with source id, target id and text, and GLB files
    named by id. The texture part leaves shapes as they are and is skipped. All pairs are held out: it is a benchmark."""
    folder, found = Path(folder), ReadPairs()
    warning = check_lineage(info.chain, info.allow_restricted, info.name)
    meshes = {file.stem: file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.glb"))}
    tables = sorted(folder.rglob("*.csv"))
    if not tables:
        raise Omni123Error(f"{folder} holds no CSV file; give the folder of Edit3D-Bench")
    for table in tables:
        kind = next((word for word in (*TYPE_WORDS, *TEXTURE_WORDS) if word in table.stem.lower()), "")
        for number, row in pair_rows(table, found, f"{table.stem}/"):
            name, where = f"{table.stem}/{number:05d}", f"{table.name} row {number}"
            ids = [Path(_pick(row, side, where)).stem for side in ("source", "target")]
            gone = [each for each in ids if each not in meshes]
            if kind in TEXTURE_WORDS:
                found.skip(name, "texture_only", "the edit changes the surface's colours, not the shape")
            elif gone:
                found.skip(name, "missing_file", f"there is no {gone[0]}.glb")
            else:
                sides = [Member(str(folder), "", meshes[each]) for each in ids]
                more = {**row, "edit_type": kind, "split": "heldout", "object_id": f"{info.name}/{ids[0]}"}
                text = _pick(row, "instruction", where)
                _add(found, info, warning, name, sides[0], sides[1], text, more)
    return _checked(found, folder)


def refuse_3deditverse(path: str | Path) -> None:
    """3DEditVerse keeps its training shapes as TRELLIS latents; always raises `Omni123Error` with the way out."""
    raise Omni123Error(
        f"{path}: 3DEditVerse stores TRELLIS latents, which need TRELLIS's decoder to become meshes; decode them, list the"
        " meshes in a table with source, target and instruction (the set has no instruction texts), and use read_table"
    )


def words_of(member: Member | None) -> dict[str, Any]:
    """What a text or JSON file says: plain text is the instruction. RejectedError for one that cannot be read."""
    if member is None:
        return {}
    text = member.read(MAX_WORD_BYTES).decode("utf-8", errors="replace").strip()
    if not member.name.lower().endswith(".json"):
        return {"instruction": " ".join(text.split())}
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RejectedError("broken_file", f"{member.name} is not JSON: {error}") from error
    return _plain_names(value) if isinstance(value, dict) else {}


def row_licence(row: Mapping[str, Any], info: PairSetInfo) -> str:
    """Licence of a pair in SPDX terms: its row's own, or else the set's.

    RejectedError "unknown_licence" when the row says that nobody knows it, unless `info.allow_unknown_licence`.
    """
    own = next((row[name] for name in ("licence", "license") if str(row.get(name) or "").strip()), None)
    licence = normalise_licence(info.licence if own is None else own)
    if licence == UNKNOWN_LICENCE and not info.allow_unknown_licence:
        raise RejectedError(
            "unknown_licence",
            f"its licence is {str(own)[:40]!r}; state it, or keep it with allow_unknown_licence (--allow-unknown-licence)",
        )
    return licence


def pair_rows(path: Path, found: ReadPairs, name: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers and rows of a table (`inputs.tables.table_rows`), columns in lower case.

    A row that cannot be read is listed in `found` as "bad_row", by its number after `name`; a table that cannot be read
    raises `Omni123Error`.
    """
    for number, row in table_rows(path):
        if isinstance(row, BadRow):
            found.skip(f"{name}{number:07d}", "bad_row", f"{path.name} row {number} {row.problem}")
        else:
            yield number, _plain_names(row)


def _plain_names(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name).strip().lower(): value for name, value in row.items()}


def _pick(row: Mapping[str, Any], key: str, where: str) -> str:
    for name in NAMES[key]:
        if isinstance(row.get(name), str) and row[name].strip():
            return str(row[name]).strip()
    raise Omni123Error(f"{where} has no {key}; name the column one of: {', '.join(NAMES[key])}")


def _inside(name: str, where: str) -> str:
    try:
        relative = posixpath.normpath(relative_name(name))
    except RejectedError as error:
        raise Omni123Error(f"{where}: {error}") from error
    if relative == ".." or relative.startswith("../"):
        raise Omni123Error(f"{where}: {name[:80]!r} leaves the folder of the table; put the meshes beside it")
    return relative


def _add(
    found: ReadPairs, info: PairSetInfo, warning: str | None, key: str, source: Member, target: Member, text: str,
    row: Mapping[str, Any],
) -> None:  # fmt: skip
    """List one pair, or skip it when it leaves the shape alone or its licence is unknown."""
    typed = next((str(row[name]).strip().lower() for name in NAMES["edit_type"] if row.get(name)), "")
    if typed in TEXTURE_WORDS:
        found.skip(key, "texture_only", f"an edit of type {typed!r} leaves the shape as it is")
        return
    try:
        licence = row_licence(row, info)
    except RejectedError as error:
        found.skip(key, error.reason, str(error))
        return
    # Without a name for the object, every source file is an object of its own.
    thing = str(row.get("object_id") or f"{info.name}/{source.archive}{source.name}")
    found.specs.append(
        MeshPairSpec(
            id=f"edit/{info.name}/{key}",
            object_id=thing,
            source=source,
            target=target,
            instruction=" ".join(text.split()),
            inverse_instruction=" ".join(str(row.get("inverse_instruction") or "").split()),
            edit_type=TYPE_WORDS.get(typed, "unknown"),
            split=str(row.get("split") or split_of(thing, info.split_seed)),
            licence=licence,
            attribution=str(row.get("attribution") or info.attribution),
            generator_chain=info.chain,
            category=str(row.get("category") or "object"),
            licence_warning=warning,
            limits=info.limits,
        )
    )


def _checked(found: ReadPairs, path: Path) -> ReadPairs:
    if not found.specs and not found.skipped:
        raise Omni123Error(f"{path} holds no pairs; see docs/editing_data.md for the names that are read")
    ids = [spec.id for spec in found.specs]
    if len(set(ids)) != len(ids):
        raise Omni123Error(f"{path}: pair ids must be unique; one stands there twice")
    return found
