"""Rows of the table for the tasks beyond text: edits, posed views, novel views; and lines for what was left out."""

from __future__ import annotations

from typing import Any

from omni123_hf.evaluation.figure_row import FigureRow


EDIT_BAR, MULTI_VIEW_BAR = 0.70, 0.50

PART_NAMES = {
    "edits": "edits",
    "text_to_views": "text → images → 3D",
    "posed_views": "3D → posed image",
    "shape_to_views": "3D → images",
    "novel_view": "novel views",
}


def further_rows(figures: dict[str, Any]) -> list[FigureRow]:
    """Rows of the parts that were measured; results of older versions have none."""
    rows: list[FigureRow] = []
    if "edits" in figures:
        rows += edit_rows(figures["edits"])
    for part in ("text_to_views", "posed_views", "shape_to_views"):
        if part in figures:
            rows.append(view_row(part, figures[part]))
    if "novel_view" in figures:
        rows += novel_view_rows(figures["novel_view"])
    if "further_outputs" in figures:
        outputs = figures["further_outputs"]
        failed = sum(row["reported_failures"] for row in outputs["tasks"].values())
        note = f"{outputs['outputs']} outputs, {failed} reported as failed"
        rows.append(
            FigureRow(
                "Edits and multi-view shapes watertight or reported as failed",
                outputs["watertight_or_reported"],
                "%",
                1.0,
                note=note,
            )
        )
    return rows


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.1f}%"


def edit_rows(edits: dict[str, Any]) -> list[FigureRow]:
    """The bar's figure with its relatives, then means. The chance column holds edits by another pair's instruction."""
    whole = edits["all"]
    wins, low_high = whole["better_than_copy"], " – ".join(percent(end) for end in whole["interval"])
    label, f1 = "Edit better than copy-source in Chamfer and F1", f"f1_{edits['f1_threshold']:g}"
    rows = [
        FigureRow(
            label,
            wins["decoded"],
            "%",
            EDIT_BAR,
            chance=wins["shuffled"],
            note=f"{whole['pairs']} pairs, 95% interval {low_high}; unchanged {percent(whole['unchanged'])}, {whole['failed']} failed; "
            f"both sides have the same tokens in {percent(whole['target_equals_source'])}; chance: another pair's instruction",
        )
    ]
    for group, name in (("add", "add"), ("remove", "remove"), ("combination", "unseen combinations")):
        if group in edits:
            part = edits[group]
            note = f"{part['pairs']} pairs, unchanged {percent(part['unchanged'])}"
            shares = part["better_than_copy"]
            rows.append(FigureRow(f"{label}, {name}", shares["decoded"], "%", chance=shares["shuffled"], note=note))
    rows += [
        FigureRow(
            f"{label}, F1 at 0.02",
            wins["decoded_f1_0.02"],
            "%",
            note=f"Chamfer alone {percent(wins['decoded_chamfer'])}, F1 alone {percent(wins['decoded_f1'])} (at {edits['f1_threshold']:g})",
        ),
        FigureRow(f"{label}, true target", wins["true"], "%", chance=wins["shuffled_true"]),
        FigureRow(
            f"{label}, true target, undecoded source",
            wins["true_undecoded"],
            "%",
            note=f"the target's own tokens: {percent(wins['ceiling_undecoded'])}",
        ),
    ]
    near, true = whole["to_decoded_target"], whole["to_true_target"]
    rows += [
        FigureRow(
            "Edit, Chamfer to the decoded target (less is better)",
            near["model"]["chamfer"],
            chance=near["shuffled"]["chamfer"],
            note=f"copy {near['copy']['chamfer']:.3f}",
        ),
        FigureRow(
            f"Edit, F1 at {edits['f1_threshold']:g}, decoded target",
            near["model"][f1],
            chance=near["shuffled"][f1],
            note=f"copy {near['copy'][f1]:.3f}",
        ),
        FigureRow(
            "Edit, Chamfer to the true target (less is better)",
            true["model"]["chamfer"],
            chance=true["shuffled"]["chamfer"],
            note=f"copy {true['copy']['chamfer']:.3f}, undecoded {true['copy_undecoded']['chamfer']:.3f}; "
            f"target's tokens {true['ceiling']['chamfer']:.3f}",
        ),
    ]
    iou, changed = whole["volume_iou"], whole["changed_points_right"]
    rows.append(
        FigureRow(
            "Edit, volume IoU with the true target",
            iou["model"],
            note=f"copy {iou['copy']:.3f}, target's tokens {iou['ceiling']:.3f}",
        )
    )
    if changed["model"] is not None:
        rows.append(
            FigureRow(
                "Edit, changed points right",
                changed["model"],
                "%",
                chance=changed["shuffled"],
                note=f"copy {percent(changed['copy'])}, target's tokens {percent(changed['ceiling'])}",
            )
        )
    outside = whole["chamfer_outside"]
    if outside["model"] is not None:
        ceiling = "none" if outside["ceiling"] is None else f"{outside['ceiling']:.3f}"
        rows.append(
            FigureRow(
                "Edit, Chamfer to the decoded source outside the region (less is better)",
                outside["model"],
                chance=outside["shuffled"],
                note=f"copy 0; target's tokens {ceiling}",
            )
        )
    agreement = whole["token_agreement"]
    rows.append(
        FigureRow(
            "Edit, tokens equal to the target's",
            agreement["model"],
            "%",
            chance=agreement["shuffled"],
            note=f"copy {percent(agreement['copy'])}",
        )
    )
    return rows


def view_row(part: str, figures: dict[str, Any]) -> FigureRow:
    """Agreement of images and mesh; only *text → images → 3D*, where both are the model's own, has the bar."""
    iou, count = figures["silhouette_iou"], len(figures["views"])
    views = "six views" if count == 6 else f"{count} view{'s' if count > 1 else ''} ({', '.join(figures['views'])})"
    note = (
        f"image against the true object {figures['image_reference_iou']:.3f}, mesh {figures['mesh_reference_iou']:.3f}; "
        f"{figures['empty_images']} empty images, {figures['failed']} shapes failed"
    )
    if part != "text_to_views":
        note += "; the true shape's tokens are given"
    bar = MULTI_VIEW_BAR if part == "text_to_views" else None
    return FigureRow(
        f"Multi-view, {PART_NAMES[part]}, {views}, silhouette IoU of images and mesh",
        iou["model"],
        "",
        bar,
        chance=iou["chance"],
        baseline=iou["category_mean"],
        note=note,
    )


def novel_view_rows(figures: dict[str, Any]) -> list[FigureRow]:
    """PSNR against the input picture, SSIM and silhouettes."""
    rows = []
    for metric, label, unit, text in (
        ("psnr", "Novel view, PSNR (mean of images)", "dB", "{:.1f} dB"),
        ("psnr_dataset", "Novel view, PSNR (data set)", "dB", "{:.1f} dB"),
        ("ssim", "Novel view, SSIM", "", "{:.3f}"),
        ("silhouette_iou", "Novel view, silhouette IoU with the true view", "", "{:.3f}"),
    ):
        scores = {who: text.format(value) for who, value in figures[metric].items()}
        note = (
            f"copy of the input {scores['copy']}, through the tokenizer {scores['copy_tokens']}; without text "
            f"{scores['model_without_text']}; true view through the tokenizer {scores['ceiling']}; chance: a white picture"
        )
        bar = figures[metric]["copy"] if metric == "psnr" else None
        if metric == "psnr":
            note = f"better than the copy on {percent(figures['better_than']['copy'])} of the objects; {note}"
        rows.append(
            FigureRow(
                label,
                figures[metric]["model"],
                unit,
                bar,
                chance=figures[metric]["chance"],
                baseline=figures[metric]["category_mean"],
                note=note,
                must_exceed=metric == "psnr",
            )
        )
    return rows


def left_out_lines(result: dict[str, Any]) -> list[str]:
    """One line for each part that was not measured, with the reason."""
    return [f"Not measured, {PART_NAMES[part]}: {reason}." for part, reason in result.get("left_out", {}).items()]
