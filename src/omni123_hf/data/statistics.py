"""What is in a prepared data set, as numbers (`omni123 data stats`)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omni123_hf.data.prepare_asset import is_repaired
from omni123_hf.data.records import CAPTION_LEVELS, AssetRecord
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


ROUND_TRIP_GOAL = 0.97
QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def store_statistics(folder: Path) -> dict[str, Any]:
    """Counts and distributions of the data set in `folder`, as plain JSON.

    "outcome": assets kept as they were, repaired and rejected by reason; "filters" and "quality": quantiles of what was
    measured on the assets that passed, empty for data sets that were prepared without measuring.
    """
    store = AssetStore.open(folder)
    records = store.records
    rejected = rejection_reasons(folder / "rejected.jsonl")
    repaired = sum(map(is_repaired, records))
    texts = {level: [text for record in records for text in record.captions[level]] for level in CAPTION_LEVELS}
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
        "caption_source": dict(
            Counter(str(record.attributes.get("caption_source", "given")) for record in records).most_common()
        ),
        "captions": {
            level: {"texts": len(each), "mean_words": round(float(np.mean([len(t.split()) for t in each])), 1)}
            for level, each in texts.items()
            if each
        },
        "filters": _filters(records),
        "quality": _quality(records),
        "seconds": _seconds(folder / "timings.jsonl"),
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
    yield f"{folder}: {values['assets']} assets, content hash {values['content_hash'][:16]}"
    outcome = values["outcome"]
    yield f"kept {outcome['kept']}, repaired {outcome['repaired']}, rejected {outcome['rejected']}"
    for key in ("split", "source", "licence", "category", "solid", "caption_source"):
        if values[key]:
            yield f"by {key.replace('_', ' ')}:"
            yield from (f"  {name:<32} {count:>7}" for name, count in values[key].items())
    words = sum(level["texts"] * level["mean_words"] for level in values["captions"].values())
    count = sum(level["texts"] for level in values["captions"].values())
    yield f"captions: {count}, {words / count:.1f} words on average"
    for title in ("filters", "quality", "seconds"):
        if values[title]:
            yield f"{title:<26}" + "".join(f"{name:>11}" for name in QUANTILES)
            for name, row in values[title].items():
                if isinstance(row, dict):
                    yield f"  {name:<24}" + "".join(f"{row[quantile]:>11.4g}" for quantile in QUANTILES)
                else:
                    yield f"  {name:<24}{row:>11.4g}"
    if outcome["rejected_by_reason"]:
        yield "rejected:"
        yield from (f"  {reason:<32} {count:>7}" for reason, count in outcome["rejected_by_reason"].items())


def _counts(records: Sequence[AssetRecord], field: str) -> dict[str, int]:
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
    found: dict[str, Any] = {name: quantiles(each) for name, each in values.items()}
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
