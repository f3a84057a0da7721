"""What is known about the data of an adapter before a step is trained: counts, words, licences, look-alikes, the tokenizer's limit."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.prepare_asset import is_repaired
from ..data.shards.tokenizers import StoreTokenizers
from ..data.shards.training_pool import TrainingPool
from ..data.store import AssetStore
from ..errors import Omni123Error
from .lora_data import BaseCheckpoint, Domain


FEW_MESHES = 20
GOOD_IOU = 0.5
MOST_ROWS = 200
BATCH = 16


@torch.no_grad()
def round_trip_iou(tokenizers: StoreTokenizers, store: AssetStore, rows: np.ndarray) -> np.ndarray:
    """(N,) volume IoU of each solid with what the shape tokenizer makes of its own tokens, on the stored uniform queries."""
    model = tokenizers.shape_tokenizer
    if model is None:
        raise Omni123Error("the base has no shape tokenizer: choose another checkpoint.")
    half = store.sizes.queries // 2
    scores = []
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        tokens = torch.from_numpy(tokenizers.encode_shapes(store, chosen)).to(model.device)
        memory = model.project_latents(model.decode_latents(tokens))
        queries = torch.from_numpy(store.queries(chosen)[:, :half]).to(model.device)
        inside = (model.query(memory, queries) > 0).cpu().numpy()
        truth = store.occupancy(chosen)[:, :half]
        union = (inside | truth).sum(1)
        scores.append(np.where(union, (inside & truth).sum(1) / np.maximum(union, 1), 1.0))
    return np.concatenate(scores)


def preflight(
    store: AssetStore, groups: list[list[int]], base: BaseCheckpoint, old: Domain | None, device: str
) -> dict[str, Any]:
    """The report as plain JSON; `warnings` are its plain words. `groups` are the look-alikes of `split_meshes`."""
    tokenizers = StoreTokenizers.load({"shape_tokenizer": base.folder / "shape_tokenizer"}, device)
    scores = round_trip_iou(tokenizers, store, evenly(len(store)))
    worst = [store.records[int(evenly(len(store))[row])].id for row in np.argsort(scores)[:3]]
    outcome = store.summary.get("settings", {}).get("outcome", {})
    sources = Counter(str(record.attributes.get("caption_source", "given")) for record in store.records)
    named = sources["file_name"] + sources["name"]
    texts = [text for record in store.records for level in record.captions.values() for text in level]
    report: dict[str, Any] = {
        "meshes": {
            "usable": len(store),
            "repaired": sum(map(is_repaired, store.records)),
            "rejected": outcome.get("rejected", 0),
            "rejected_by_reason": outcome.get("rejected_by_reason", {}),
        },
        "split": {name: len(store.indices(name)) for name in ("train", "heldout")},
        "captions": {
            "given": len(store) - named,
            "from_names": named,
            "texts": len(texts),
            "distinct": len(set(texts)),
        },
        "licences": dict(Counter(record.licence for record in store.records).most_common()),
        "look_alikes": [[store.records[row].id for row in group] for group in groups if len(group) > 1],
        "tokenizer_volume_iou": {
            "mean": float(scores.mean()),
            "median": float(np.median(scores)),
            "min": float(scores.min()),
            "worst": worst,
        },
        "old_domain": describe_old(old, tokenizers),
    }
    report["warnings"] = warnings(report)
    return report


def evenly(count: int) -> np.ndarray:
    """At most `MOST_ROWS` of `count` rows, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_ROWS)).round().astype(np.int64))


def describe_old(old: Domain | None, tokenizers: StoreTokenizers) -> dict[str, Any] | None:
    if old is None:
        return None
    known: dict[str, Any] = {"rehearsed": old.pool.splits.get("train", 0), "measured": old.pool.splits[old.measured]}
    if old.store is not None and old.rows is not None:
        rows = old.rows[evenly(len(old.rows))]
        known["tokenizer_volume_iou"] = float(round_trip_iou(tokenizers, old.store, rows).mean())
    return known


def warnings(report: dict[str, Any]) -> list[str]:
    """What a user should know before training, one sentence each."""
    found = []
    captions, split, iou = report["captions"], report["split"], report["tokenizer_volume_iou"]["median"]
    if split["train"] < FEW_MESHES:
        found.append(f"only {split['train']} meshes to train on: {FEW_MESHES} or more generalise better.")
    if report["meshes"]["rejected"]:
        found.append(
            f"{report['meshes']['rejected']} meshes were rejected: rejected.jsonl in the prepared data says why."
        )
    if captions["from_names"]:
        found.append(f"{captions['from_names']} meshes have no caption and are named by their file or title.")
    if captions["distinct"] < captions["texts"] / 2:
        found.append("more than half of the captions are repeated: text cannot tell those objects apart.")
    if report["look_alikes"]:
        found.append(
            f"{len(report['look_alikes'])} groups of meshes look alike from all sides: each stays in one split."
        )
    if iou < GOOD_IOU:
        found.append(
            f"the base's shape tokenizer keeps a median volume IoU of {iou:.2f} of these shapes: an adapter of the backbone "
            "cannot mend that; retrain the tokenizer or choose another base."
        )
    if report["old_domain"] is None:
        found.append("nothing of the old domain is rehearsed or measured: what the base knew may be lost unseen.")
    return found


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report for a terminal."""
    meshes, captions, split = report["meshes"], report["captions"], report["split"]
    iou, old = report["tokenizer_volume_iou"], report["old_domain"]
    licences = ", ".join(f"{name or 'none'} {count}" for name, count in report["licences"].items())
    lines = [
        f"meshes: {meshes['usable']} usable ({meshes['repaired']} made closed), {meshes['rejected']} rejected",
        *(f"  {reason}: {count}" for reason, count in meshes["rejected_by_reason"].items()),
        f"split: {split['train']} train, {split['heldout']} held out",
        f"captions: {captions['given']} given, {captions['from_names']} from names; {captions['distinct']} different texts",
        f"licences: {licences}",
        f"shape tokenizer, volume IoU of its round trip: mean {iou['mean']:.3f}, median {iou['median']:.3f}, least "
        f"{iou['min']:.3f} ({iou['worst'][0]})",
    ]
    if old is None:
        lines.append("old domain: none")
    else:
        own = old.get("tokenizer_volume_iou")
        lines.append(
            f"old domain: {old['rehearsed']} rehearsed, {old['measured']} measured"
            + ("" if own is None else f"; round trip {own:.3f}")
        )
    return lines + [f"warning: {text}" for text in report["warnings"]]


def write_report(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def lineage(pool: TrainingPool) -> list[dict[str, Any]]:
    """Records by source and licence, from the shards' index."""
    return [dict(entry) for entry in pool.pool.info.sources]
