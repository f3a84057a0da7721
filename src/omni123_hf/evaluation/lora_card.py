"""The published folder of an adapter: PEFT's two files, lineage, and a card whose every number was measured.

Files appear one by one by rename. `adapter_config.json`, without which nothing loads the folder, goes first and comes last.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from omni123_hf import __version__
from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.shards.training_pool import TrainingPool
from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines.lora_folder import CONFIG_FILE, WEIGHTS_FILE, write_adapter_provenance
from omni123_hf.pipelines.registry import PROVENANCE_FILE


SHEET = "images/before_after.png"
CARD, RESULTS = "README.md", "results.json"
FILES = (WEIGHTS_FILE, SHEET, RESULTS, CARD, PROVENANCE_FILE, CONFIG_FILE)
# Licences that ask for nothing do not bind the adapter when others stand beside them.
FREE = ("CC0-1.0", "Unlicense", "0BSD")
KEPT = 0.05


def adapter_licence(licences: Mapping[str, int], stated: str | None = None) -> str:
    """The licence of an adapter from the numbers of its training records by licence: an SPDX name, several joined by AND, or
    "unknown" where a record states none (data preparation refuses these unless they are allowed). `stated` replaces it."""
    if stated:
        return stated
    if any(name in ("", UNKNOWN_LICENCE) for name in licences):
        return UNKNOWN_LICENCE
    binding = sorted(set(licences) - set(FREE))
    return " AND ".join(binding or sorted(licences))


def licence_lines(licence: str) -> list[str]:
    """The licence as lines of the card's metadata; the Hub has one name for each licence and "other" for the rest."""
    if " AND " in licence:
        return ["license: other", f"license_name: {licence.lower().replace(' ', '-')}"]
    return [f"license: {licence.lower()}"]


def lineage(pool: TrainingPool, split: str | None = None) -> dict[str, Any]:
    """Sources, licences and attributions of a pool's records (of one split), with counts, and the hash of its content."""
    table = pool.pool.manifest.select(["source", "licence", "attribution", "split"]).to_pylist()
    rows = [row for row in table if split is None or row["split"] == split]
    entries = Counter((row["source"], row["licence"], row["attribution"]) for row in rows)
    return {
        "data_hash": pool.data_hash,
        "content_hash": pool.content_hash,
        "records": dict(pool.splits),
        "sources": [
            {"source": source, "licence": licence, "attribution": attribution, "records": count}
            for (source, licence, attribution), count in sorted(entries.items())
        ],
    }


def licences_of(*lineages: Mapping[str, Any] | None) -> Counter[str]:
    counts: Counter[str] = Counter()
    for entry in lineages:
        for source in (entry or {}).get("sources", []):
            counts[source["licence"]] += source["records"]
    return counts


def publish(adapter: Path, out: Path, result: dict[str, Any], sheet: Image.Image) -> None:
    """Puts the adapter of `adapter` (PEFT's folder) with card, picture, figures and lineage into `out`, beside its work folder.

    `result` is what `omni123 train lora` measured. Raises `Omni123Error` when PEFT wrote no adapter.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (adapter / name).is_file()]
    if missing:
        raise Omni123Error(f"{adapter} lacks {missing[0]}: the training did not end; run it again.")
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".omni123-", dir=out))
    try:
        (staging / "images").mkdir()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(adapter / name, staging / name)
        sheet.save(staging / SHEET, format="PNG", optimize=True)
        (staging / RESULTS).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (staging / CARD).write_text(card(out.resolve().name, result), encoding="utf-8")
        write_adapter_provenance(
            staging, {key: result[key] for key in ("base", "licence", "data", "training", "versions")}
        )
        (out / CONFIG_FILE).unlink(missing_ok=True)
        (out / "images").mkdir(exist_ok=True)
        for name in FILES:
            os.replace(staging / name, out / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def card(name: str, result: dict[str, Any]) -> str:
    """The card as Markdown with the Hub's metadata."""
    base, training = result["base"], result["training"]
    metadata = [
        "---",
        f"base_model: {base['name']}",
        "base_model_relation: adapter",
        "library_name: omni123-hf",
        "pipeline_tag: text-to-3d",
        *licence_lines(result["licence"]),
        "language: en",
        "tags:",
        *(f"- {tag}" for tag in ("lora", "peft", "text-to-3d", "omni123")),
        "---",
    ]
    sections = [
        "\n".join(metadata),
        f"# {name}\n\nA LoRA adapter (rank {training['rank']}, {training['trainable']:,} parameters) of `{base['name']}`, revision "
        f"`{base['revision']}`, trained on {result['preflight']['split']['train']} meshes with captions.",
        usage(name, base["name"], training["options"]["train_heads"]),
        "## Before and after\n\nThe first held-out prompts of the new domain, not chosen ones: the true object, what the base makes of "
        f"the prompt, what the adapter makes of it, with Chamfer distances.\n\n![Before and after]({SHEET})",
        "## Figures\n\n" + figures(result),
        "## Data and licence\n\n" + data_section(result),
        "## Training\n\n" + training_section(result),
    ]
    return "\n\n".join(sections) + "\n"


def usage(name: str, base: str, has_heads: bool) -> str:
    scale = "" if has_heads else "pipeline.set_lora_scale(0.8)  # 0 is the base, 1 the adapter as trained\n"
    return f"""```python
from omni123_hf.pipelines import load_pipeline

pipeline = load_pipeline("{base}")
pipeline.load_lora_weights("{name}")  # this folder, or its id on the Hub
{scale}output = pipeline("...")
pipeline.unload_lora_weights()
```

`omni123 generate "..." --model {base} --lora {name} --out outputs/` does the same."""


def figures(result: dict[str, Any]) -> str:
    """One table a domain, and whether the old one was kept."""
    parts = []
    for domain, title in (("new", "New domain"), ("old", "Old domain")):
        measured = result["figures"].get(domain)
        if measured is None:
            parts.append(f"**{title}**: not measured; what the base knew may be lost.")
            continue
        lines = [
            f"**{title}**, {measured['objects']} held-out objects",
            "",
            "| figure | base | with adapter | change |",
        ]
        lines.append("|---|---|---|---|")
        for task, losses in measured["loss"].items():
            lines.append(row(f"loss, {task}", losses["before"], losses["after"]))
        before, after = measured["before"], measured["after"]
        lines.append(row("text → 3D, Chamfer distance", before["chamfer"], after["chamfer"]))
        lines.append(row("text → 3D, Chamfer distance, median", before["chamfer_median"], after["chamfer_median"]))
        lines.append(row("text → 3D, volume IoU", before["volume_iou"], after["volume_iou"]))
        lines.append(f"| text → 3D, failed | {before['failed']} | {after['failed']} | |")
        bound = measured["tokenizer"]
        lines += [
            "",
            f"Decoding the objects' own tokens, which no adapter can do better: Chamfer distance {bound['chamfer']:.3f}, volume IoU "
            f"{bound['volume_iou']:.3f}."
            + (
                ""
                if measured.get("one_object") is None
                else f" One training object as the answer to every prompt: Chamfer distance {measured['one_object']:.3f}."
            ),
        ]
        parts.append("\n".join(lines))
    parts.append(
        "Losses are means of cross-entropy per code on fixed batches without dropout; Chamfer distances are sums of both directed mean "
        "distances where the longest side is 1.92, a failed generation counting as the box's diagonal twice; generation is greedy "
        f"from one caption, seed {result['training']['seed']}, surfaces at {result['resolution']}³."
    )
    return "\n\n".join(parts)


def row(name: str, before: float, after: float) -> str:
    relative = f"{after / before - 1:+.1%}" if before else ""
    return f"| {name} | {before:.3f} | {after:.3f} | {relative} |"


def data_section(result: dict[str, Any]) -> str:
    lines = [
        f"Licence of the adapter: **{result['licence']}**, from its training data. The base: {result['base']['licence'] or 'not stated'}.",
        "",
        "| use | source | licence | records | attributions |",
        "|---|---|---|---|---|",
    ]
    for use, label in (("new", "trained on"), ("old", "rehearsed")):
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for entry in (result["data"].get(use) or {}).get("sources", []):
            groups.setdefault((entry["source"], entry["licence"]), []).append(entry)
        for (source, licence), entries in groups.items():
            credits = sorted({entry["attribution"] for entry in entries if entry["attribution"]})
            shown = "; ".join(credits[:3]) + (f"; {len(credits) - 3} more" if len(credits) > 3 else "")
            total = sum(entry["records"] for entry in entries)
            lines.append(f"| {label} | {cell(source)} | {cell(licence)} | {total} | {cell(shown) or '–'} |")
    lines += ["", f"`{PROVENANCE_FILE}` names every attribution. Known limits, found before training:", ""]
    lines += [f"- {text}" for text in result["preflight"]["warnings"]] or ["- none"]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text of a source as it may stand in a table."""
    return " ".join(text.replace("|", "/").split())


def training_section(result: dict[str, Any]) -> str:
    training = result["training"]
    tasks = ", ".join(f"{name} {share:g}" for name, share in training["tasks"].items())
    iou = result["preflight"]["tokenizer_volume_iou"]
    return "\n".join(
        [
            f"- {training['steps']} steps of {training['batch']} samples, learning rate {training['learning_rate']:g}, seed "
            f"{training['seed']}, {training['seconds']:.0f} seconds on {training['device']}; {training['rehearsal']:.0%} of the batches "
            f"rehearse the old domain, held to the base's own predictions with weight {training['options']['distillation']:g}.",
            f"- rank {training['rank']}, alpha {training['alpha']:g}, on {', '.join(training['options']['targets'])} of both streams"
            f"{'; heads are trained too' if training['options']['train_heads'] else ''}. Text encoders are frozen.",
            f"- tasks: {tasks}.",
            f"- the base's shape tokenizer keeps a mean volume IoU of {iou['mean']:.3f} of this domain's shapes (median "
            f"{iou['median']:.3f}, least {iou['min']:.3f}).",
            f"- omni123-hf {__version__}; `{RESULTS}` holds every figure, with those of each object.",
        ]
    )
