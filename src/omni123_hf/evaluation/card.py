"""The model card of `omni123-mini`, written from result JSON and training logs: no number in it is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.edit_set import PICTURES
from omni123_hf.evaluation.report import figure_rows, markdown_table, provenance_line
from omni123_hf.evaluation.report_tasks import left_out_lines
from omni123_hf.evaluation.samples_tasks import VIEW_SAMPLES
from omni123_hf.evaluation.training_logs import draw_curves, progress_rows, read_logs
from omni123_hf.pipelines.registry import LINEAGE_FILE, provenance


SAMPLES_PICTURE, EDITS_PICTURE, VIEWS_PICTURE = "samples.png", "samples_edits.png", "samples_views.png"

FRONT_MATTER = """\
---
license: apache-2.0
library_name: omni123-hf
pipeline_tag: text-to-3d
language: en
tags:
- text-to-3d
- text-to-image
- autoregressive
- mesh
- diffusers
- transformers
---
"""

INTRODUCTION = """\
# {name}

The small checkpoint of [omni123-hf](../README.md), an open implementation of Omni123 (arXiv 2604.02289): one autoregressive
transformer over text, image tokens and 3D-shape tokens. From a short English description of an object it generates a
64 × 64 image and a watertight, untextured mesh. It was trained from scratch, text encoders included, and shares no weights
with the model of the paper. It shows that the whole path works; its sizes are about a hundredth of the paper's.

```python
from omni123_hf.pipelines import Omni123JointPipeline

pipeline = Omni123JointPipeline.from_pretrained("{name}")
output = pipeline("a round wooden table with three legs")
output.images[0].save("image.png")
output.meshes[0].export("mesh.glb")
```
"""

LIMITATIONS = """\
- It knows the categories it was trained on (own parametric objects, furniture, building-brick parts) and the wording of their
  captions. A prompt outside them gives some training-like shape, not an error.
- Pictures are 64 × 64, shapes 64 tokens: thin parts, text, faces and fine ornament are beyond it. Meshes carry no colour
  of their own; `color_mesh` projects the model's six pictures onto them, at their resolution.
- Pictures often miss the colours of the prompt, and shapes often miss its counts and small parts: the shape of the named category
  is what the text mostly decides. Knowing the true category and answering with its medoid object does as well (see the table).
- An edit is better than leaving the shape as it is about as often as not (see the table); some change nothing, and parts that
  should stay move a little. What a shape's 64 tokens say of a small part is little: the target's own tokens seldom beat the untouched
  source either.
- Posed pictures show the outline of the side asked for, seldom its details or colours.
- English only. The captions are templates filled from attributes and catalogue data, not human descriptions.
- Real meshes are often open; their solids come from a flood fill, so thin sheets are thickened in training and in evaluation.
- Figures on "parametric" objects measure our own generator's distribution. The rows on real assets and on unseen
  attribute combinations say more about generalisation.
- Outputs follow the licences of the training data only by style; the assets themselves are not reproduced on purpose, but a
  generator of this size may come close to a training object.
"""

REPRODUCE = """\
```bash
omni123 evaluate mini --split heldout --model {name} --out results.json --samples model_cards/images/{samples} \\
    --edit-samples model_cards/images/{edits} --view-samples model_cards/images/{views}
omni123 evaluate card --results results.json --out model_cards/{name}.md
```

The first command reads the evaluation set that ships in `checkpoints/omni123-mini-eval/`. To draw the set anew from the sources:
`omni123 data fetch`, `omni123 data prepare` (see `docs/data.md`), then `--data DIR`, or `omni123 evaluate export-subset --data DIR`.
The held-out edits: `omni123 data pairs --parametric 6000 --kinds add,remove --out PAIRS`, then
`omni123 evaluate export-subset --edits PAIRS`.
"""


def write_card(result: dict[str, Any], logs: Path, out: Path) -> list[Path]:
    """Write the card to `out` and the curves to `images/` beside it; returns all files written.

    `result` is the JSON of `run_mini`, `logs` a folder of `<stage>.jsonl`. The pictures of `sample_pictures` must lie in `images/`
    already, otherwise Omni123Error.
    """
    images = out.parent / "images"
    for picture, option in sample_pictures(result).items():
        if not (images / picture).is_file():
            raise Omni123Error(
                f"{images / picture} is missing: run 'omni123 evaluate mini {option} {images / picture}' first."
            )
    stages = read_logs(logs)
    written = []
    for name, log in stages.items():
        written.append(images / f"curve_{name}.png")
        draw_curves(name, log, written[-1])
    name = result["model"]["name"]
    sections = [
        FRONT_MATTER + "\n" + INTRODUCTION.format(name=name),
        "## Figures\n\n" + figures_section(result),
        "## Samples\n\n" + samples_section(result),
        "## Training\n\n" + training_section(result, stages, provenance(logs.parent).get("trained_on", "")),
        "## Data and licences\n\n" + data_section(result) + later_stages(logs.parent),
        "## Limitations\n\n" + LIMITATIONS,
        "## Reproduce\n\n"
        + REPRODUCE.format(name=name, samples=SAMPLES_PICTURE, edits=EDITS_PICTURE, views=VIEWS_PICTURE),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(section.rstrip() + "\n" for section in sections), encoding="utf-8")
    return [out, *written]


def sample_pictures(result: dict[str, Any]) -> dict[str, str]:
    """Files in `images/` that the card shows, and the option of `omni123 evaluate mini` that writes each."""
    pictures = {SAMPLES_PICTURE: "--samples"}
    if "edits" in result["figures"]:
        pictures[EDITS_PICTURE] = "--edit-samples"
    if "text_to_views" in result["figures"]:
        pictures[VIEWS_PICTURE] = "--view-samples"
    return pictures


def figures_section(result: dict[str, Any]) -> str:
    """What the numbers stand on, the table, what falls short, and what the columns mean."""
    short = [row for row in figure_rows(result) if row.verdict == "below"]
    objects = result["data"]["objects"]
    lines = [
        f"{sum(objects.values())} held-out objects: {objects['parametric']} parametric ones, {objects['combination']} of attribute "
        f"combinations that training never saw, {objects['real']} real assets. Generation is greedy with guidance "
        f"{result['settings']['guidance_scale']:g}, from the first medium caption. A failed generation counts as the worst score.",
        "",
        f"`{provenance_line(result)}`",
        "",
        markdown_table(result),
        "",
    ]
    if short:
        names = "; ".join(f"{row.name} ({row.show(row.value)}, bar {row.show(row.bar_cpu)})" for row in short)
        lines += [f"**Below the bar of CPU training:** {names}.", ""]
    for line in left_out_lines(result):
        lines += [line, ""]
    lines.append(
        "*Category mean* knows the prompt's true category and nothing else: the mean occupancy (IoU), mean picture (PSNR, SSIM, "
        "silhouette) or medoid training object (retrieval) of that category. *Chance*: another object's reconstruction (IoU), a white "
        "picture (PSNR), a random order (retrieval), another prompt's mesh (silhouette). *Text-blind* answers every prompt with one "
        "training object; *shuffled prompts* judges the model's own outputs for other prompts. Rows named parametric include the "
        "unseen combinations, which also have rows of their own."
    )
    lines += further_paragraphs(result)
    return "\n".join(lines)


def further_paragraphs(result: dict[str, Any]) -> list[str]:
    """What the rows of edits and views mean, where there are any."""
    figures, paragraphs = result["figures"], []
    if "edits" in figures:
        edits, scale = figures["edits"], result["settings"]["edit_guidance_scale"]
        bias = result["settings"].get("edit_source_bias", 0.0)
        paragraphs.append(
            f"*Edits*: {edits['all']['pairs']} held-out pairs, half add and half remove, the first short instruction, greedy with guidance "
            f"{scale:g} and {bias:g} added to the logits of the source's own codes. *Copy-source* does nothing. An edit counts as better only if Chamfer **and** F1 (at "
            f"{edits['f1_threshold']:g}) are strictly better than the copy's, pair by pair. In the row with the bar, output and source are both "
            "decoded from tokens and compared with the decoded target, so the tokenizer's error is on no side; the rows named *true target* "
            "compare with the true surface, *undecoded source* with a copy that no tokenizer touched, which the tokenizer alone may lose "
            "to. *Chance* in these rows is the model's own edit by another pair's instruction. Every pair is in the result file."
        )
    if any(part in figures for part in ("text_to_views", "posed_views", "shape_to_views")):
        paragraphs.append(
            "*Multi-view*: mean over objects and views of the IoU of an image's silhouette with the mesh's from the same view; *chance* is "
            "another object's mesh in the same view. An empty image or a failed shape counts as 0."
        )
    if "novel_view" in figures:
        paragraphs.append(
            "*Novel view*: one pair of different canonical views an object, chosen by hash. The bar is the PSNR of the input picture itself. Both "
            "views of a symmetric object may be one picture: there the copy is perfect, and its capped PSNR lifts the mean of images, not "
            "the row of the data set."
        )
    return [text for paragraph in paragraphs for text in ("", paragraph)]


def samples_section(result: dict[str, Any]) -> str:
    """The sample picture and its prompts."""
    samples = result["samples"]
    lines = [
        f"The first {len(samples)} prompts of the held-out set, not chosen ones: generated image, generated mesh, render of the true object.",
        "",
        f"![First {len(samples)} held-out prompts](images/{SAMPLES_PICTURE})",
        "",
    ]
    for number, sample in enumerate(samples, 1):
        failed = f" — failed: {sample['failure']}" if sample["failure"] else ""
        lines.append(f"{number}. {sample['prompt']} ({sample['kind']}){failed}")
    figures = result["figures"]
    if "edits" in figures:
        pairs = figures["edits"]["pairs"][:PICTURES]
        lines += [
            "",
            f"The first {len(pairs)} held-out edits: source, source decoded from its tokens, edit, target decoded from its tokens, target.",
            "",
            f"![First {len(pairs)} held-out edits](images/{EDITS_PICTURE})",
            "",
        ]
        for number, pair in enumerate(pairs, 1):
            verdict = "better than copy" if pair["better_than_copy"] else "not better than copy"
            failed = f" — failed: {pair['failure']}" if pair["failure"] else ""
            lines.append(f"{number}. {pair['instruction']} ({pair['id']}): {verdict}{failed}")
    if "text_to_views" in figures:
        count = min(VIEW_SAMPLES, len(samples))
        lines += [
            "",
            f"The first {count} prompts, text → images → 3D: posed images above, the mesh from the same views below.",
            "",
            f"![First {count} multi-view results](images/{VIEWS_PICTURE})",
        ]
    return "\n".join(lines)


def training_section(result: dict[str, Any], stages: dict[str, list[dict[str, Any]]], trained_on: str) -> str:
    """Parameters by part, then for each stage its length, its curve and how its validation figures moved."""
    lines = [f"Trained on: {trained_on}.", ""] if trained_on else []
    lines += ["| part | parameters |", "|---|---|"]
    lines += [f"| {part} | {count:,} |" for part, count in result["model"]["parameters"].items()]
    for name, log in stages.items():
        seconds = max((line["seconds"] for line in log if "seconds" in line), default=None)
        length = f"{log[-1]['step']:,} steps" + (f", {seconds / 60:.0f} minutes" if seconds is not None else "")
        lines += [
            "",
            f"### {name.replace('_', ' ')}",
            "",
            f"{length}.",
            "",
            f"![Curves of {name}](images/curve_{name}.png)",
        ]
        rows = progress_rows(log)
        if rows:
            lines += ["", "| validation | at 1/3 | at 2/3 | at the end |", "|---|---|---|---|"]
            lines += [f"| {key} | {first:.4g} | {second:.4g} | {last:.4g} |" for key, first, second, last in rows]
    return "\n".join(lines)


def later_stages(checkpoint: Path) -> str:
    """What the stages behind the first were trained on, by `data_lineage.json`; empty for a checkpoint without any."""
    file = checkpoint / LINEAGE_FILE
    stages = json.loads(file.read_text(encoding="utf-8")).get("later_stages", {}) if file.is_file() else {}
    facts = provenance(checkpoint).get("later_stages", {})
    lines = []
    for stage, pools in stages.items():
        told = facts.get(stage, {})
        lines += [
            "",
            "",
            f"The later stage `{stage}` went on from revision {told.get('began_from', 'unknown')}"
            + (f" ({told['trained_on']})" if told.get("trained_on") else "")
            + ", on token shards of:",
            "",
        ]
        for pool, entry in pools.items():
            counts = ", ".join(f"{count:,} {split}" for split, count in entry["records"].items())
            licences = ", ".join(sorted({f"{source['source']} ({source['licence']})" for source in entry["sources"]}))
            lines.append(f"- `{pool}` {entry['content_hash'][:12]}: {counts}; {licences}")
    return "\n".join(lines)


def data_section(result: dict[str, Any]) -> str:
    """Counts by source and licence, and the attribution that the licences ask for."""
    data = result["data"]
    lines = [
        f"{data['data_assets']:,} assets, data set hash `{data['data_hash']}`. Splits are by object, never by view or caption.",
        "",
        "| source | licence | train | validation | held out | unseen combinations |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['source']} | {row['licence']} | {row['train']:,} | {row['validation']:,} | {row['heldout']:,} | {row['heldout_combination']:,} |"
        for row in data["corpus"]
    ]
    if data["attributions"]:
        lines += ["", "Attribution (each asset's own line is in the data set's manifest):", ""]
        for row in data["attributions"]:
            lines.append(
                f"- **{row['library']}**, {row['licence']}, {row['assets']:,} assets, by {', '.join(row['authors'])}."
            )
    return "\n".join(lines)
