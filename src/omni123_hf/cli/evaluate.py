"""`omni123 evaluate`: the held-out figures of a checkpoint, the evaluation set they stand on, and the model card."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from omni123_hf.errors import Omni123Error


evaluate_app = typer.Typer(
    help="Measure a checkpoint on held-out objects; write its model card.", no_args_is_help=True
)


@evaluate_app.command()
def mini(
    split: Annotated[str, typer.Option(help="Only heldout: figures on seen objects are not printed.")] = "heldout",
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set or exported evaluation set; the shipped set when left out.")
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder, or Hub id of the checkpoint.")] = "omni123-mini",
    count: Annotated[int, typer.Option(help="Held-out objects; 100 in the protocol.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of objects and of all sampling of points.")] = 0,
    resolution: Annotated[
        int, typer.Option(help="Grid points a side in surface extraction; 64 in the protocol.")
    ] = 64,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Write the first nine prompts' outputs as PNG.")] = None,
    edits: Annotated[
        Path | None, typer.Option(help="Exported held-out edits; those beside the objects when left out.")
    ] = None,
    edit_guidance_scale: Annotated[
        float | None, typer.Option(help="Strength of instructions; 1 is unguided; the checkpoint's own when left out.")
    ] = None,
    edit_samples: Annotated[Path | None, typer.Option(help="Write the first six held-out edits as PNG.")] = None,
    view_samples: Annotated[Path | None, typer.Option(help="Write the first four multi-view results as PNG.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """All figures of the small checkpoint on held-out objects, as a table and as JSON."""
    if split != "heldout":
        raise Omni123Error(f"--split {split} is not measured: use --split heldout.")
    from rich.console import Console

    from omni123_hf.cli.generate import load_pipeline
    from omni123_hf.evaluation.figures_views import TEXT_TASK
    from omni123_hf.evaluation.protocol_mini import load_edit_set, load_evaluation_set, run_mini
    from omni123_hf.evaluation.report import terminal_table, write_json
    from omni123_hf.evaluation.samples import save_sample_sheet
    from omni123_hf.evaluation.samples_tasks import edit_sheet, save_sheet, view_sheet
    from omni123_hf.pipelines.pipeline_base import check_resolution
    from omni123_hf.pipelines.registry import trained_image_count, trained_tasks

    check_resolution(resolution)
    for path in (out, samples, edit_samples, view_samples):
        if path is not None:
            _check_writable(path)
    evaluation_set = load_evaluation_set(data, count, seed)
    edit_set = load_edit_set(data, edits)
    pipeline = load_pipeline(model, device)
    if pipeline.task != "text-to-image-to-3d":
        raise Omni123Error(f"{model!r} is a checkpoint for {pipeline.task}; this protocol also measures images.")
    folder = Path(pipeline.config["_name_or_path"])
    trained = trained_tasks(folder)
    for option, path, part in (
        ("--edit-samples", edit_samples, "edit-3d"),
        ("--view-samples", view_samples, TEXT_TASK),
    ):
        if path is not None and (trained is not None and part not in trained):
            raise Omni123Error(
                f"{model!r} was not trained on {part}, so there is nothing to show: leave out {option}."
            )
    if edit_samples is not None and edit_set is None:
        raise Omni123Error(
            "the evaluation set holds no held-out edits to show: leave out --edit-samples, or give --edits."
        )
    with _progress(quiet) as report:
        result, generations, further = run_mini(
            pipeline,
            evaluation_set,
            model,
            seed,
            resolution,
            report,
            edit_set=edit_set,
            trained=trained,
            num_images=trained_image_count(folder, TEXT_TASK),
            edit_guidance_scale=edit_guidance_scale,
        )
    Console().print(terminal_table(result))
    typer.echo(f"seconds: {sum(result['seconds'].values()):.0f}")
    if out is not None:
        write_json(result, out)
        typer.echo(f"figures: {out}")
    if samples is not None:
        save_sample_sheet(generations["text-to-image-to-3d"], evaluation_set, samples)
        typer.echo(f"samples: {samples}")
    if edit_samples is not None and edit_set is not None and further.edits is not None:
        save_sheet(edit_sheet(further.edits, edit_set), edit_samples)
        typer.echo(f"samples of edits: {edit_samples}")
    if view_samples is not None and further.views is not None:
        save_sheet(view_sheet(further.views, evaluation_set), view_samples)
        typer.echo(f"samples of views: {view_samples}")


@evaluate_app.command("export-subset")
def export_subset(
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set (omni123 data prepare), to choose the objects from.")
    ] = None,
    edits: Annotated[
        Path | None, typer.Option(help="Prepared pairs (omni123 data pairs), to choose the held-out edits from.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the evaluation set; what is not chosen anew stays there as it is.")
    ] = Path("checkpoints/omni123-mini-eval"),
    count: Annotated[int, typer.Option(help="Held-out objects.")] = 100,
    edit_count: Annotated[int, typer.Option(help="Held-out edits, half add and half remove.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice.")] = 0,
) -> None:
    """Write the held-out objects of the protocol, its held-out edits, or both, as one small folder that evaluation can read."""
    if data is None and edits is None:
        raise Omni123Error("give --data with a prepared data set, --edits with prepared pairs, or both")
    from omni123_hf.data.editing.pair_store import EditPairStore
    from omni123_hf.data.store import AssetStore
    from omni123_hf.evaluation.edit_set import EditSet
    from omni123_hf.evaluation.evaluation_set import EvaluationSet

    # Both are chosen before either is written: a refused one leaves the folder as it was.
    objects = None if data is None else EvaluationSet.from_store(AssetStore.open(data), count, seed)
    pairs = None if edits is None else EditSet.from_store(EditPairStore.open(edits), edit_count, seed)
    if objects is not None:
        objects.save(out)
        typer.echo(f"{len(objects)} objects, set {objects.set_hash()}")
    if pairs is not None:
        pairs.save(out)
        typer.echo(f"{len(pairs)} edits, set {pairs.set_hash()}")
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    typer.echo(f"{size / 1e6:.1f} MB: {out}")


@evaluate_app.command()
def card(
    results: Annotated[Path, typer.Option(help="JSON written by 'omni123 evaluate mini --out'.")],
    out: Annotated[Path, typer.Option(help="The card; pictures go to images/ beside it.")] = Path(
        "model_cards/omni123-mini.md"
    ),
    logs: Annotated[Path, typer.Option(help="Folder of <stage>.jsonl training logs.")] = Path(
        "checkpoints/omni123-mini/logs"
    ),
) -> None:
    """Write the model card from measured figures and training logs."""
    from omni123_hf.evaluation.card import write_card
    from omni123_hf.evaluation.report import read_json

    for path in write_card(read_json(results), logs, out):
        typer.echo(str(path))


def _check_writable(path: Path) -> None:
    """Find a file that cannot be written before minutes of work, not after. Raises `Omni123Error`."""
    nearest = path.absolute().parent
    while not nearest.exists():
        nearest = nearest.parent
    if path.is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise Omni123Error(f"cannot write {str(path)!r}; give a file in a folder that you may write to")


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on stderr, one line a part; None when quiet."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(file=sys.stderr)
    # A log file and a notebook have no place for a line that moves.
    with Progress(*columns, console=console, disable=console.is_jupyter or not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}
        totals: dict[str, int] = {}

        def report(part: str, done: int, total: int) -> None:
            if part not in tasks:
                tasks[part] = bar.add_task(part, total=total)
            # A part that counted its own steps keeps its total when the closing "1 of 1" arrives.
            totals[part] = max(total, totals.get(part, 0))
            bar.update(tasks[part], completed=totals[part] if done == total else done, total=totals[part])

        yield report
