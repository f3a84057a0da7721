"""Pairs that are token sequences already: checked, and kept as flat uint16 arrays beside their `EditPair` lines.

Made for sets such as 3DEdit-1M, whose tars hold Cube 3D v0.5 indices: int64 (1,1024) of a codebook of 16,384. Tokens
mean nothing without their tokenizer, so its hash is part of every record.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from omni123_hf.data.editing.lineage import check_lineage
from omni123_hf.data.editing.members import Member, group_members
from omni123_hf.data.editing.mesh_pairs import by_length
from omni123_hf.data.editing.readers import NAMES, TEXTURE_WORDS, TYPE_WORDS, PairSetInfo, row_licence, words_of
from omni123_hf.data.editing.records import EditPair, EditSide, lines_hash, read_pair_summary, read_pairs, write_pairs
from omni123_hf.data.run_folder import write_lines
from omni123_hf.data.splits import split_of
from omni123_hf.data.store import write_json
from omni123_hf.errors import Omni123Error, RejectedError


TOKEN_FORMAT = 1
MAX_TOKEN_BYTES = 1 << 20


@dataclass(frozen=True)
class TokenSpace:
    """The tokenizer that wrote the codes: its hash (`data.tokens.weights_hash`), codes a shape, size of the codebook."""

    tokenizer_hash: str
    length: int = 1024
    codes: int = 16_384

    def __post_init__(self) -> None:
        if not self.tokenizer_hash.strip() or self.length < 1 or not 1 <= self.codes <= 2**16:
            raise Omni123Error(f"token pairs need a tokenizer hash, a length and at most 65,536 codes, got {self}")

    def check(self, codes: np.ndarray, name: str) -> np.ndarray:
        """(length,) uint16 of codes (length,) or (1,length); RejectedError "token_type", "token_length", "token_range"."""
        if codes.dtype.kind not in "iu":
            raise RejectedError("token_type", f"{name} holds {codes.dtype}, not integers")
        if codes.size != self.length or codes.shape not in ((self.length,), (1, self.length)):
            raise RejectedError(
                "token_length", f"{name} has shape {codes.shape}; this tokenizer has {self.length} codes"
            )
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.codes:
            raise RejectedError(
                "token_range", f"{name} has codes {low} to {high}; this tokenizer has 0 to {self.codes - 1}"
            )
        return codes.reshape(-1).astype(np.uint16)


TokenPair = tuple[EditPair, np.ndarray, np.ndarray]


def read_token_pairs(
    path: str | Path, info: PairSetInfo, space: TokenSpace, skipped: list[dict[str, str]] | None = None
) -> Iterator[TokenPair]:
    """Pairs of a tar or folder with `.npy` files: (pair, source codes, target codes), codes (length,) uint16.

    Names are read as in `members.role_of`. A pair that is broken, has no words, or edits colours only goes to `skipped`
    with a reason. A chain whose terms bar training raises `Omni123Error` unless `info.allow_restricted`.
    """
    warning = check_lineage(info.chain, info.allow_restricted, info.name)
    path = Path(path)
    for key, members in group_members(path, (".npy",), info.max_unpacked_bytes):
        try:
            row = words_of(members.get("words"))
            text = next((str(row[name]) for name in NAMES["instruction"] if row.get(name)), "")
            typed = next((str(row[name]).lower() for name in NAMES["edit_type"] if row.get(name)), "")
            if not text:
                raise RejectedError("no_instruction", f"{members['source'].name} comes without words")
            if typed in TEXTURE_WORDS:
                raise RejectedError("texture_only", f"an edit of type {typed!r} leaves the shape as it is")
            licence = row_licence(row, info)
            source, target = (space.check(_codes(members[side]), members[side].name) for side in ("source", "target"))
            if np.array_equal(source, target):
                raise RejectedError("no_change", "source and target have the same codes")
        except RejectedError as error:
            if skipped is not None:
                skipped.append({"id": key, "reason": error.reason, "detail": str(error)})
            continue
        thing = str(row.get("object_id") or f"{info.name}/{key}")
        name = f"edit/{info.name}/{path.stem}/{key}"
        pair = EditPair(
            id=name,
            object_id=thing,
            source=EditSide(f"{name}/source", "tokens", {"archive": path.name, "member": members["source"].name}),
            target=EditSide(f"{name}/target", "tokens", {"archive": path.name, "member": members["target"].name}),
            instructions=by_length(" ".join(text.split())),
            inverse_instructions=by_length(" ".join(str(row.get("inverse_instruction") or "").split())),
            edit_type=TYPE_WORDS.get(typed, "unknown"),
            generator_chain=info.chain,
            licence=licence,
            attribution=str(row.get("attribution") or info.attribution),
            split=split_of(thing, info.split_seed),
            tokenizer_hash=space.tokenizer_hash,
            licence_warning=warning,
        )
        yield pair, source, target


def _codes(member: Member) -> np.ndarray:
    data = member.read(MAX_TOKEN_BYTES)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise RejectedError("broken_file", f"{member.name} is no .npy array: {str(error)[:120]}") from error
    if not isinstance(array, np.ndarray):
        raise RejectedError("broken_file", f"{member.name} is an archive of arrays, not one array")
    return array


class TokenPairStore:
    """`source_tokens` and `target_tokens` (N,length) uint16, memory-mapped; row i belongs to `pairs[i]`."""

    def __init__(
        self, folder: Path, pairs: list[EditPair], source: np.ndarray, target: np.ndarray, space: TokenSpace
    ) -> None:
        self.folder, self.pairs, self.space = folder, pairs, space
        self.source_tokens, self.target_tokens = source, target

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def content_hash(self) -> str:
        """SHA-256 over the codes of both sides and everything that is said about the pairs."""
        digest = hashlib.sha256(lines_hash(self.folder / "pairs.jsonl").encode())
        for array in (self.source_tokens, self.target_tokens):
            digest.update(np.ascontiguousarray(array, dtype="<u2").data)
        return digest.hexdigest()

    @classmethod
    def open(cls, folder: str | Path, tokenizer_hash: str | None = None) -> TokenPairStore:
        """Open what `write_token_pairs` wrote; another tokenizer than `tokenizer_hash` raises `Omni123Error`."""
        folder = Path(folder)
        if not (folder / "token_pairs.json").is_file():
            raise Omni123Error(f"{folder} holds no finished token pairs (no token_pairs.json)")
        summary = read_pair_summary(folder / "token_pairs.json", TOKEN_FORMAT, ("tokenizer_hash", "length", "codes"))
        space = TokenSpace(summary["tokenizer_hash"], summary["length"], summary["codes"])
        if tokenizer_hash is not None and tokenizer_hash != space.tokenizer_hash:
            raise Omni123Error(
                f"{folder} was written by tokenizer {space.tokenizer_hash[:16]}, the model has {tokenizer_hash[:16]}"
            )
        try:
            arrays = [
                np.load(folder / f"{side}_tokens.npy", mmap_mode="r", allow_pickle=False)
                for side in ("source", "target")
            ]
        except (OSError, ValueError, EOFError) as error:
            raise Omni123Error(f"{folder}: the token arrays are broken ({error}); write them again") from error
        pairs = read_pairs(folder / "pairs.jsonl")
        if any(array.shape != (len(pairs), space.length) or array.dtype != np.uint16 for array in arrays):
            raise Omni123Error(f"{folder}: pairs.jsonl and the token arrays do not match; write them again")
        return cls(folder, pairs, arrays[0], arrays[1], space)


def write_token_pairs(
    items: Iterable[TokenPair], out: str | Path, space: TokenSpace, skipped: Sequence[dict[str, str]] = ()
) -> TokenPairStore:
    """Write pairs as a folder that appears whole, and open it. No pair, other lengths, or a folder that is there raise
    `Omni123Error`.

    skipped: pairs left out, with a reason, for `rejected.jsonl`; read when all of `items` are, whose reader fills it.
    """
    out = Path(out)
    if out.exists():
        raise Omni123Error(f"{out} is there already; choose another folder")
    pairs: list[EditPair] = []
    sources, targets = [], []
    for pair, source, target in items:
        if pair.tokenizer_hash != space.tokenizer_hash:
            raise Omni123Error(f"{pair.id} was written by another tokenizer")
        pairs.append(replace(pair, index=len(pairs)))
        sources.append(space.check(source, pair.source.id))
        targets.append(space.check(target, pair.target.id))
    if not pairs:
        first = f"; the first of {len(skipped)} left out: {skipped[0]['detail']}" if skipped else ""
        raise Omni123Error(f"there are no token pairs to write{first}")
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    np.save(temporary / "source_tokens.npy", np.stack(sources))
    np.save(temporary / "target_tokens.npy", np.stack(targets))
    write_pairs(temporary / "pairs.jsonl", pairs)
    write_lines(temporary / "rejected.jsonl", skipped)
    summary = {
        "format": TOKEN_FORMAT,
        "count": len(pairs),
        "tokenizer_hash": space.tokenizer_hash,
        "length": space.length,
        "codes": space.codes,
        "splits": dict(Counter(pair.split for pair in pairs)),
        "edit_types": dict(Counter(pair.edit_type for pair in pairs)),
        "licences": dict(Counter(pair.licence for pair in pairs)),
        "licence_warnings": sorted({pair.licence_warning for pair in pairs if pair.licence_warning}),
    }
    write_json(temporary / "token_pairs.json", summary)
    temporary.rename(out)
    return TokenPairStore.open(out)
