"""From pairs to a pair store: the run of `data.prepare_run` over pairs, then one store a side and `pairs.jsonl`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.editing.members import Member
from omni123_hf.data.editing.pair_specs import PairSpec
from omni123_hf.data.editing.pair_store import EditPairStore, write_summary
from omni123_hf.data.editing.prepare_pair import PAIR_CONFIG, SIDES, PreparedPair, check_config, prepare_pair
from omni123_hf.data.editing.records import EditPair, write_pairs
from omni123_hf.data.engines import Engine
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepare_run import check_engine, run_in_folder
from omni123_hf.data.prepare_shard import Row, read_lines
from omni123_hf.data.records import AssetRecord
from omni123_hf.data.run_folder import RunKind, fingerprint_line, make_plan, write_lines
from omni123_hf.data.store import ARRAYS, StoreWriter
from omni123_hf.errors import Omni123Error


PAIRS = RunKind("pair", "pairs", "editing.json")
_PLACE_FIELDS = {"path", "root"}


@dataclass(frozen=True)
class PairWork:
    """`prepare_pair` with its settings; see `data.prepare_shard.Work`. Arrays and records stand once for each side."""

    config: PreparationConfig
    lines = ("pairs", *(f"{side}_records" for side in SIDES))

    @property
    def layout(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """The arrays of both stores."""
        return {f"{side}_{name}": self.config.sizes.array(name) for side in SIDES for name in ARRAYS}

    def place(self, item: PairSpec) -> tuple[str, str]:
        """Always "editing", and the name of the first file."""
        return "editing", item.files[0].name if item.files else ""

    def prepare(self, item: PairSpec) -> Row:
        """The pair as a row."""
        return pair_row(prepare_pair(item, self.config))


def pair_row(prepared: PreparedPair) -> Row:
    """A prepared pair as a row of a shard."""
    arrays, lines = {}, {"pairs": prepared.pair.to_dict()}
    for side, record, each in zip(SIDES, prepared.records, prepared.arrays, strict=True):
        lines[f"{side}_records"] = record.to_dict()
        arrays.update({f"{side}_{name}": each[name] for name in ARRAYS})
    return Row("kept", arrays, lines)


def prepare_pairs(
    specs: Iterable[PairSpec],
    out: str | Path,
    workers: int = 1,
    config: PreparationConfig = PAIR_CONFIG,
    show_progress: bool = True,
    engine: Engine = "local",
) -> EditPairStore:
    """Prepare pairs into the folder `out` and open the result.

    workers: processes of the local engine; on Ray the cluster decides. Calling it again with the same pairs and
    configuration goes on where a stopped run ended. Pairs are the same when all that is stated about them is, and size
    and time of their files. Pairs that cannot be used, and pairs with the same two shapes as an earlier one, are named
    with a reason in `rejected.jsonl`. Other pairs or settings in a folder already begun, a folder that holds anything
    else, another run at work there, ids given twice and a run without a usable pair raise `Omni123Error`.
    """
    check_config(config)
    check_engine(workers, engine)
    out, listed = Path(out).absolute(), list(specs)
    plan = make_plan(PAIRS, listed, _fingerprint, {"config": config.to_dict()})
    finish = partial(finalise, out, config=config)
    run_in_folder(out, listed, PairWork(config), PAIRS, plan, finish, workers, engine, show_progress)
    return EditPairStore.open(out)


def finalise(out: Path, files: Sequence[Path], config: PreparationConfig) -> None:
    """Join the shards, leave out pairs whose two shapes stand there already, then remove the shards."""
    pairs: list[EditPair] = []
    kept_rows: list[list[int]] = []
    rejected: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for file in files:
        rejected += read_lines(file, "rejected")
        rows = []
        for row, line in enumerate(read_lines(file, "pairs")):
            pair = EditPair.from_dict(line)
            key = json.dumps([pair.source.kind, pair.source.reference, pair.target.reference], sort_keys=True)
            if key in seen:
                detail = f"the same two shapes as {seen[key]}"
                rejected.append(
                    {"id": pair.id, "source": "editing", "path": "", "reason": "duplicate", "detail": detail}
                )
                continue
            seen[key] = pair.id
            rows.append(row)
            pairs.append(replace(pair, index=len(pairs)))
        kept_rows.append(rows)
    write_lines(out / "rejected.jsonl", rejected)
    if not pairs:
        raise Omni123Error(f"every pair was rejected; the reasons are in {out / 'rejected.jsonl'}")
    for side in SIDES:
        settings = {"preparation": config.to_dict(), "side": side}
        with StoreWriter(out / side, len(pairs), config.sizes, settings) as writer:
            for file, rows in zip(files, kept_rows, strict=True):
                with np.load(file, allow_pickle=False) as shard:
                    arrays = {name: shard[f"{side}_{name}"] for name in ARRAYS}
                records = read_lines(file, f"{side}_records")
                for row in rows:
                    writer.append(
                        AssetRecord.from_dict(records[row]), {name: array[row] for name, array in arrays.items()}
                    )
    write_pairs(out / "pairs.jsonl", pairs)
    write_summary(out, pairs, {"preparation": config.to_dict(), "rejected": len(rejected)})
    shutil.rmtree(out / "shards")


def _fingerprint(spec: PairSpec) -> str:
    """Everything that is stated about a pair, and size and time of its files, as one line."""
    if is_dataclass(spec):
        names = {each.name for each in fields(spec)} - _PLACE_FIELDS
        stated = {name: _stated(getattr(spec, name)) for name in names}
    else:
        stated = {"pair": repr(spec)}
    return fingerprint_line(type(spec).__qualname__, [file.name for file in spec.files], spec.files, stated)


def _stated(value: Any) -> Any:
    """A member without the folder that its set lies in."""
    return [value.archive, value.name] if isinstance(value, Member) else value
