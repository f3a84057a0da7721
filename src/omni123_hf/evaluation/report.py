"""One table for the figures of `protocol_mini`, read by the terminal and by the model card.

A row is a figure with the bars of the project's target, and with chance and the category-mean baseline beside it. Rows of the further
tasks are in `report_tasks`; what was left out is said below the table.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.table import Table

from omni123_hf.errors import Omni123Error
from omni123_hf.evaluation.figure_row import FigureRow
from omni123_hf.evaluation.report_tasks import further_rows, left_out_lines


def figure_rows(result: dict[str, Any]) -> list[FigureRow]:
    """The table's rows from the JSON of `run_mini`."""
    figures = result["figures"]
    shape, image, codes = figures["shape_tokenizer"], figures["image_tokenizer"], figures["codes"]
    text, joint, outputs = figures["text_to_3d"], figures["joint"], figures["outputs"]
    rows = []
    for metric, label, bars in (
        ("volume_iou", "Shape tokenizer, volume IoU", {"parametric": (0.80, 0.93), "real": (0.55, 0.80)}),
        ("near_surface_iou", "Shape tokenizer, near-surface IoU", {}),
    ):
        for kind in ("parametric", "combination", "real"):
            if kind not in shape[metric]["model"]:
                continue
            cpu, gpu = bars.get(kind, (None, None))
            named = "unseen combinations" if kind == "combination" else kind
            rows.append(
                FigureRow(
                    f"{label}, {named}",
                    shape[metric]["model"][kind],
                    bar_cpu=cpu,
                    bar_gpu=gpu,
                    chance=shape[metric]["chance"][kind],
                    baseline=shape[metric]["category_mean"][kind],
                )
            )
    for metric, label, unit, who, bar in (
        ("psnr", "Image tokenizer, PSNR (mean of images)", "dB", "model", (20.0, 25.0)),
        ("psnr_dataset", "Image tokenizer, PSNR (data set)", "dB", "model", None),
        ("psnr_foreground", "Image tokenizer, PSNR inside silhouettes", "dB", "model", None),
        ("ssim", "Image tokenizer, SSIM", "", "model", None),
        ("psnr", "Image VAE alone, PSNR", "dB", "vae", None),
        ("ssim", "Image VAE alone, SSIM", "", "vae", None),
    ):
        scores = image[metric]
        rows.append(
            FigureRow(
                label,
                scores[who],
                unit,
                bar[0] if bar else None,
                bar[1] if bar else None,
                scores["chance"],
                scores["category_mean"],
                "chance: a white picture",
            )
        )
    for side in ("shape", "image"):
        statistics = codes[side]
        note = f"{statistics['tokens']:,} tokens, perplexity {statistics['perplexity']:.0f} of {statistics['codes']:,} codes"
        rows.append(FigureRow(f"Code use, {side} tokenizer", statistics["usage"], "%", 0.5, 0.8, note=note))
    within = f"within{text['within']}"
    for key, label, bar in (
        ("rank1", f"Text→3D, own among {text['group_size']}, rank 1", (0.35, 0.70)),
        (within, f"Text→3D, own among {text['group_size']}, within {text['within']}", (0.70, 0.90)),
    ):
        note = f"text-blind {100 * text['text_blind'][key]:.1f}%, shuffled prompts {100 * text['shuffled'][key]:.1f}%"
        rows.append(
            FigureRow(label, text["model"][key], "%", *bar, text["chance"][key], text["category_mean"][key], note)
        )
        rows.append(
            FigureRow(f"{label}, unseen combinations", text["combination"][key], "%", chance=text["chance"][key])
        )
        if key in text["real"]:
            size = text["real"]["group_size"]
            chance = (1 if key == "rank1" else text["within"]) / size
            rows.append(
                FigureRow(
                    f"{label.replace(str(text['group_size']), str(size), 1)}, real assets",
                    text["real"][key],
                    "%",
                    chance=chance,
                )
            )
    iou = joint["silhouette_iou"]
    note = f"image against the true object {joint['image_reference_iou']:.3f}, mesh {joint['mesh_reference_iou']:.3f}"
    rows.append(
        FigureRow(
            "Joint, silhouette IoU of image and mesh",
            iou["model"],
            "",
            0.4,
            0.65,
            iou["chance"],
            iou["category_mean"],
            note,
        )
    )
    failed = sum(row["reported_failures"] for row in outputs["tasks"].values())
    note = f"{outputs['outputs']} outputs, {failed} reported as failed"
    rows.append(
        FigureRow(
            "Outputs watertight or reported as failed", outputs["watertight_or_reported"], "%", 1.0, 1.0, note=note
        )
    )
    return rows + further_rows(figures)


def provenance_line(result: dict[str, Any]) -> str:
    """What the numbers were measured on, in one line; no number is printed without it."""
    model, data = result["model"], result["data"]
    edits = data.get("edits")
    of_edits = (
        f"edits {edits['set_hash']} ({edits['pairs']} of data {edits['data_hash'][:12]}) · "
        if edits is not None
        else ""
    )
    return (
        f"protocol {result['protocol']} · model {model['name']} revision {model['revision']} · data {data['data_hash'][:12]} · "
        f"set {data['set_hash']} ({sum(data['objects'].values())} objects) · {of_edits}"
        f"seed {result['settings']['seed']}"
    )


def terminal_table(result: dict[str, Any]) -> Table:
    """The figures as a rich table."""
    caption = "\n".join([provenance_line(result), *left_out_lines(result)])
    table = Table(title="Held-out figures", caption=caption, caption_justify="left")
    for column in ("figure", "value", "bar cpu / gpu", "reached", "chance", "category mean", "note"):
        table.add_column(column, overflow="fold")
    for row in figure_rows(result):
        chance, baseline = row.show(row.chance), row.show(row.baseline)
        table.add_row(row.name, row.show(row.value), row.bars, row.verdict, chance, baseline, row.note)
    return table


def markdown_table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| figure | value | bar (CPU / GPU training) | reached | chance | category mean | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in figure_rows(result):
        cells = [
            row.name,
            f"**{row.show(row.value)}**",
            row.bars,
            row.verdict or "–",
            row.show(row.chance),
            row.show(row.baseline),
        ]
        lines.append("| " + " | ".join([*cells, row.note or "–"]) + " |")
    return "\n".join(lines)


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write the result next to `path` and move it there, so that nothing half-written remains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a result file; anything else raises Omni123Error."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Omni123Error(
            f"{path} is no result file ({error}): write one with 'omni123 evaluate mini --out {path}'."
        ) from error
    if not isinstance(result, dict) or "figures" not in result or "protocol" not in result:
        raise Omni123Error(f"{path} is no result of 'omni123 evaluate mini': it lacks 'protocol' and 'figures'.")
    return result
