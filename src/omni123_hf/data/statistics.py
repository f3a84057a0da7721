"""What is in prepared assets, pictures or editing pairs, as numbers (`omni123 data stats`)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.editing.pair_store import EditPairStore
from omni123_hf.data.editing.records import EditPair
from omni123_hf.data.editing.token_pairs import TokenPairStore
from omni123_hf.data.image_store import ImageStore
from omni123_hf.data.prepare_asset import is_repaired
from omni123_hf.data.prepared import open_prepared
from omni123_hf.data.records import AssetRecord
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


ROUND_TRIP_GOAL = 0.97
QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def prepared_statistics(folder: Path) -> dict[str, Any]:
    """Counts and distributions of whatever prepared data lie in `folder`, as plain JSON."""
    store = open_prepared(folder)
    if isinstance(store, AssetStore):
        return store_statistics(folder)
    return picture_statistics(store) if isinstance(store, ImageStore) else pair_statistics(store)


def store_statistics(folder: Path) -> dict[str, Any]:
    """Counts and distributions of the prepared assets in `folder`, as plain JSON.

    "outcome": assets kept as they were, repaired and rejected by reason; "filters" and "quality": quantiles of what was
    measured on the assets that passed, empty for data sets that were prepared without measuring.
    """
    store = AssetStore.open(folder)
    records = store.records
    rejected = rejection_reasons(folder / "rejected.jsonl")
    repaired = sum(map(is_repaired, records))
    return {
        "assets": len(store),
        "content_hash": store.content_hash,
        "arrays": {name: list(store.sizes.array(name)[0]) for name in store.sizes.names},
        "outcome": {
            "kept": len(records) - repaired,
            "repaired": repaired,
            "rejected": sum(rejected.values()),
            "rejected_by_reason": dict(rejected.most_common()),
        },
        "split": _counts(records, "split"),
        "source": _counts(records, "source"),
        "licence": _counts(records, "licence"),
        "category": _counts(records, "category"),
        "solid": dict(Counter(method for record in records if (method := _solid_method(record))).most_common()),
        "caption_source": _caption_sources(records),
        "captions": _texts([record.captions for record in records]),
        "filters": _filters(records),
        "quality": _quality(records),
        "seconds": _seconds(folder / "timings.jsonl"),
    }


def picture_statistics(store: ImageStore) -> dict[str, Any]:
    """Counts of prepared pictures, as plain JSON."""
    records = store.records
    rejected = rejection_reasons(store.folder / "rejected.jsonl")
    return {
        "pictures": len(store),
        "content_hash": store.content_hash,
        "size": store.size,
        "outcome": _outcome(len(records), rejected),
        "split": _counts(records, "split"),
        "source": _counts(records, "source"),
        "licence": _counts(records, "licence"),
        "category": _counts(records, "category"),
        "caption_source": _caption_sources(records),
        "captions": _texts([record.captions for record in records]),
    }


def pair_statistics(store: EditPairStore | TokenPairStore) -> dict[str, Any]:
    """Counts and distributions of editing pairs, of shapes or of tokens, as plain JSON.

    "direction": pairs, and how many say how to undo the edit: the records of a pool `edits`. "region": how many have exact boxes, measured ones, or none.
    """
    pairs = store.pairs
    rejected = rejection_reasons(store.folder / "rejected.jsonl")
    shares = [pair.changed_share for pair in pairs if pair.changed_share is not None]
    regions = Counter("none" if p.region is None else "exact" if p.region.exact else "measured" for p in pairs)
    categories = _counts(store.source.records, "category") if isinstance(store, EditPairStore) else {}
    return {
        "pairs": len(store),
        "content_hash": store.content_hash,
        "outcome": _outcome(len(pairs), rejected),
        "split": _counts(pairs, "split"),
        "edit_type": _counts(pairs, "edit_type"),
        "generator": dict(Counter(", ".join(pair.generator_chain) for pair in pairs).most_common()),
        "licence": _counts(pairs, "licence"),
        "category": categories,
        "region": dict(regions.most_common()),
        "direction": {"forward": len(pairs), "inverse": sum(any(p.inverse_instructions.values()) for p in pairs)},
        "instructions": _texts([pair.instructions for pair in pairs]),
        "quality": {"changed_share": quantiles(shares)} if shares else {},
        "licence_warnings": sorted({pair.licence_warning for pair in pairs if pair.licence_warning}),
    }


def statistics_text(folder: Path, values: dict[str, Any]) -> str:
    """The statistics as a page of text."""
    return "\n".join(_lines(folder, values))


def rejection_reasons(path: Path) -> Counter[str]:
    """How often each reason stands in a `rejected.jsonl`; empty when the file is not there."""
    if not path.is_file():
        return Counter()
    return Counter(line["reason"] for line in _json_lines(path))


def _lines(folder: Path, values: dict[str, Any]) -> Iterator[str]:
    what = next(name for name in ("assets", "pictures", "pairs") if name in values)
    size = f" of {values['size']} x {values['size']}" if "size" in values else ""
    yield f"{folder}: {values[what]} {what}{size}, content hash {values['content_hash'][:16]}"
    outcome = values["outcome"]
    yield ", ".join(f"{name} {outcome[name]}" for name in ("kept", "repaired", "rejected") if name in outcome)
    for key in (
        "split", "source", "edit_type", "generator", "licence", "category", "solid", "region", "direction", "caption_source"
    ):  # fmt: skip
        if values.get(key):
            yield f"by {key.replace('_', ' ')}:"
            yield from (f"  {name:<32} {count:>7}" for name, count in values[key].items())
    for kind in ("captions", "instructions"):
        levels = values.get(kind, {}).values()
        count = sum(level["texts"] for level in levels)
        if count:
            words = sum(level["texts"] * level["mean_words"] for level in levels)
            yield f"{kind}: {count}, {words / count:.1f} words on average"
    for title in ("filters", "quality", "seconds"):
        if values.get(title):
            yield f"{title:<26}" + "".join(f"{name:>11}" for name in QUANTILES)
            for name, row in values[title].items():
                if isinstance(row, dict):
                    yield f"  {name:<24}" + "".join(f"{row[quantile]:>11.4g}" for quantile in QUANTILES)
                else:
                    yield f"  {name:<24}{row:>11.4g}"
    yield from (f"warning: {warning}" for warning in values.get("licence_warnings", []))
    if outcome["rejected_by_reason"]:
        yield "rejected:"
        yield from (f"  {reason:<32} {count:>7}" for reason, count in outcome["rejected_by_reason"].items())


def _outcome(kept: int, rejected: Counter[str]) -> dict[str, Any]:
    return {"kept": kept, "rejected": rejected.total(), "rejected_by_reason": dict(rejected.most_common())}


def _caption_sources(records: Sequence[AssetRecord]) -> dict[str, int]:
    sources = Counter(str(record.attributes.get("caption_source", "given")) for record in records)
    return dict(sources.most_common())


def _texts(by_level: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, dict[str, float]]:
    """Number and mean words of the texts of each level that has any."""
    words: dict[str, list[int]] = {}
    for texts in by_level:
        for level, each in texts.items():
            words.setdefault(level, []).extend(len(text.split()) for text in each)
    return {
        level: {"texts": len(each), "mean_words": round(float(np.mean(each)), 1)}
        for level, each in words.items()
        if each
    }


def _counts(records: Sequence[AssetRecord] | Sequence[EditPair], field: str) -> dict[str, int]:
    return dict(Counter(getattr(record, field) for record in records).most_common())


def _qa(record: AssetRecord) -> dict[str, Any]:
    return dict(record.attributes.get("qa", {}))


def _solid_method(record: AssetRecord) -> str:
    solid = _qa(record).get("solid")
    if solid is None:
        return ""
    return f"{solid['method']} ({solid['reason']})" if solid["reason"] else str(solid["method"])


def _filters(records: Sequence[AssetRecord]) -> dict[str, dict[str, float]]:
    values = defaultdict(list)
    for record in records:
        for finding in _qa(record).get("filters", []):
            values[finding["reason"]].append(finding["value"])
    return {name: quantiles(each) for name, each in values.items()}


def _quality(records: Sequence[AssetRecord]) -> dict[str, Any]:
    values = defaultdict(list)
    for record in records:
        qa = _qa(record)
        for group, names in (
            ("mesh", ("faces", "components")),
            ("solid", ("volume", "sheet_share", "bridged_share", "dropped_shells")),
            ("round_trip", ("volume_iou", "chamfer", "thin_share")),
        ):
            for name in names:
                if name in qa.get(group, {}):
                    values[name].append(qa[group][name])
        for scores in qa.get("alignment", {}).get("scores", {}).values():
            values["alignment"] += scores
    found: dict[str, Any] = {name: quantiles(each) for name, each in values.items() if each}
    if values["volume_iou"]:
        share = float(np.mean(np.asarray(values["volume_iou"]) >= ROUND_TRIP_GOAL))
        found[f"volume_iou >= {ROUND_TRIP_GOAL}"] = share
    return found


def _seconds(path: Path) -> dict[str, dict[str, float]]:
    if not path.is_file():
        return {}
    values = defaultdict(list)
    for line in _json_lines(path):
        for step, seconds in line.items():
            if step != "id":
                values[step].append(seconds)
    return {step: quantiles(each) for step, each in values.items()}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    # Not `splitlines`, which also parts a line at separators that JSON leaves as they are.
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except ValueError as error:
        raise Omni123Error(f"{path} is not readable as JSON lines ({error}); prepare the data set again") from error


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """`QUANTILES` of a list of numbers."""
    found = np.quantile(np.asarray(values, dtype=np.float64), list(QUANTILES.values()))
    return {name: float(value) for name, value in zip(QUANTILES, found, strict=True)}
