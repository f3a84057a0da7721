"""`omni123 generate`: prompts in, meshes, previews, records and, where the checkpoint makes them, pictures out."""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni123_hf.cli.generate_run import (
    PREVIEW_MESH,
    Request,
    forget_earlier,
    is_made,
    read_prompts,
    run_prompt,
)
from omni123_hf.cli.options import (
    AsJson,
    Color,
    Extraction,
    Floaters,
    Format,
    LongestSide,
    TargetFaces,
    TextureSize,
    check_color,
    check_format,
    finish_settings,
)
from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What to make, for example 'a round wooden table with three legs'.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the mesh, preview.png, result.json and, where one is made, image.png."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="In place of a prompt: a file with one a line, or a folder of .txt; run again, it goes on where it stopped.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder, or Hub id of the checkpoint.")] = "omni123-mini",
    lora: Annotated[str | None, typer.Option(help="Folder or Hub id of an adapter for that checkpoint.")] = None,
    lora_scale: Annotated[float, typer.Option(help="Strength of the adapter: 0 is the checkpoint alone.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling (no effect at temperature 0).")] = 0,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", help="So many of each prompt, in sample_1/ and so on.")
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option(
            "--best-of", help="Make so many, rank them by the model itself; the others go to candidate_2/ and so on."
        ),
    ] = None,
    color: Color = None,
    texture_size: TextureSize = 1024,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Strength of the prompt; 1 is unguided; the checkpoint's own when left out.")
    ] = None,
    guidance_schedule: Annotated[
        str | None, typer.Option(help="constant or linear_decay; the checkpoint's own when left out.")
    ] = None,
    bbox: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Sides x y z of the wanted box, in any unit; for checkpoints that were trained with boxes."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest codes.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample in the nucleus of this probability.")] = None,
    resolution: Annotated[int, typer.Option(help="Points on a side of the surface extraction grid.")] = 96,
    preview_every: Annotated[
        int | None,
        typer.Option("--preview-every", help="Write preview_mesh.glb anew after every so many codes of the shape."),
    ] = None,
    extraction: Extraction = "safe",
    target_faces: TargetFaces = None,
    remove_floaters: Floaters = 0.0,
    longest_side: LongestSide = None,
    mesh_format: Format = "glb",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Generate a watertight mesh, and an image where the checkpoint makes one, from a text or from a file of texts."""
    started = time.perf_counter()
    if (prompt is None) == (prompts is None):
        raise Omni123Error("give a prompt, or --prompts with a file or folder of them, one of the two")
    if out is None:
        raise Omni123Error("give --out, the folder for the results")
    if lora is None and lora_scale != 1.0:
        raise Omni123Error("--lora-scale needs --lora, the adapter that it weighs")
    settings: dict[str, Any] = {
        "guidance_scale": guidance_scale,
        "guidance_schedule": guidance_schedule,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "resolution": resolution,
        "extraction": extraction,
    }
    request = Request(
        model,
        device,
        seed,
        settings,
        num_samples,
        best_of,
        check_color(color, texture_size, longest_side),
        texture_size,
        preview_every,
        finish_settings(target_faces, remove_floaters, longest_side),
        check_format(mesh_format, color),
    )
    request.check()
    jobs = [(out, str(prompt))] if prompts is None else [(out / name, text) for name, text in read_prompts(prompts)]
    waiting = jobs if prompts is None else [job for job in jobs if not is_made(job[0], mesh_format)]
    if not waiting:
        if not as_json:
            typer.echo(f"{out}: all {len(jobs)} results are there already")
        return
    # Made before the checkpoint is loaded, so that a folder that cannot be written to is found at once.
    with staging_folder(out):
        pipeline: Any = load_pipeline(model, device)
        if lora is not None:
            pipeline.load_lora_weights(lora, scale=lora_scale)
        # The result file says what was used, not that nothing was asked for.
        settings["guidance_scale"], settings["guidance_schedule"] = pipeline.guidance(
            guidance_scale, guidance_schedule
        )
        if bbox is not None:
            if not pipeline.transformer.config.use_bbox:
                raise Omni123Error(f"the checkpoint {model!r} was trained without bounding boxes; leave out --bbox")
            settings["bbox"] = bbox
        request.check_pipeline(pipeline)
        loaded = time.perf_counter() - started
        failed = 0
        for folder, text in waiting:
            failed += not generate_one(
                pipeline, text, request, folder, loaded, quiet, as_json, is_batch=prompts is not None
            )
    if prompts is not None and not as_json:
        skipped = len(jobs) - len(waiting)
        typer.echo(f"{out}: {len(waiting) - failed} made, {failed} failed, {skipped} there already")
    if failed:
        raise typer.Exit(1)


def generate_one(
    pipeline: Any, prompt: str, request: Request, out: Path, loaded: float, quiet: bool, as_json: bool, is_batch: bool
) -> bool:
    """One prompt into the folder `out`; whether it gave a mesh. Of a batch, a prompt that cannot be used is said and passed over."""
    try:
        with staging_folder(out) as staging, progress_callbacks(quiet or as_json) as callbacks:
            outcome = run_prompt(pipeline, prompt, request, staging, out, callbacks, loaded)
            files = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
            forget_earlier(out, outcome.names)
            publish(staging, out, outcome.names)
    except Omni123Error as error:
        if not is_batch:
            raise
        print(f"error: {out.name}: {' '.join(str(error).split())}", file=sys.stderr)
        return False
    finally:
        if request.preview_every is not None and out.is_dir():
            (out / PREVIEW_MESH).unlink(missing_ok=True)
            if not any(out.iterdir()):
                out.rmdir()
    if as_json:
        typer.echo(json.dumps({**outcome.record, "folder": str(out), "files": files}))
    if outcome.failure is not None:
        if not as_json:
            where = f"{out.name}: " if is_batch else ""
            print(f"error: {where}the model gave no surface for this prompt: {outcome.failure}", file=sys.stderr)
        return False
    if not as_json:
        typer.echo(summary(outcome.record, out))
    return True


def summary(record: dict[str, Any], out: Path) -> str:
    """The line about a result for people."""
    total = f"{record['seconds']['total']:.1f} s"
    samples = record.get("samples") or []
    if samples and samples[0]["folder"] != ".":
        made = sum(sample["failure"] is None for sample in samples)
        return f"{out}: {made} of {len(samples)} samples have a surface; {total}"
    health = record["mesh"]
    best = f"best of {len(samples)}, " if samples else ""
    return (
        f"{out / 'mesh'}.{record['settings']['format']}: {best}{health['faces']:,} faces, {health['components']} component(s), "
        f"{'watertight' if health['watertight'] else 'NOT watertight'}; {total}"
    )


def load_pipeline(model: str, device: str, class_name: str | None = None) -> "Omni123PipelineBase":
    """Load a checkpoint quietly onto a device, as the pipeline that is named, by default as the one that its index names.

    Raises `Omni123Error` for an unknown or absent device.
    """
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from omni123_hf import pipelines

    kind = device.partition(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(kind, False):
        raise Omni123Error(
            f"no device {device!r} on this machine; use --device {' or '.join(k for k, v in present.items() if v)}"
        )
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    if class_name is None:
        pipeline: Any = pipelines.load_pipeline(model)
    else:
        pipeline = getattr(pipelines, class_name).from_pretrained(model)
    # The commands have a progress display of their own.
    pipeline.set_progress_bar_config(disable=True)
    try:
        return pipeline.to(torch.device(device))
    except RuntimeError as error:
        raise Omni123Error(f"cannot use the device {device!r}: {str(error).splitlines()[0]}") from error


@contextmanager
def progress_callbacks(quiet: bool) -> Iterator[dict[str, Any]]:
    """The pipeline's two callbacks, drawn as one bar for tokens and one for the extraction; none when quiet."""
    if quiet:
        yield {}
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    tokens = bar.add_task("tokens", total=None, visible=False)
    surface = bar.add_task("surface", total=None, start=False, visible=False)

    # Begun at the first sign of work: refused input prints its one line and nothing else, not even the end of a bar.
    def on_step(pipeline: Any, step: int, total: int, facts: dict[str, Any]) -> None:
        bar.start()
        bar.update(tokens, completed=step, total=total, description=f"{facts['modality']} tokens", visible=True)

    def on_extraction(done: int, total: int) -> None:
        bar.start()
        if done and not bar.tasks[surface].started:
            bar.start_task(surface)
        bar.update(surface, completed=done, total=total, visible=True)

    try:
        yield {"callback_on_step_end": on_step, "callback_on_extraction": on_extraction}
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as `out`, removed at the end. Made before any work, so that a folder that
    cannot be written to is found at once. Raises `Omni123Error` or `OSError`."""
    if out.exists() and not out.is_dir():
        raise Omni123Error(f"--out {str(out)!r} is a file; give a folder")
    nearest = out.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise Omni123Error(f"--out {str(out)!r} lies below the file {nearest.name!r}; give a folder")
    try:
        staging = Path(tempfile.mkdtemp(prefix=".omni123-", dir=nearest))
    except OSError as error:
        raise Omni123Error(
            f"cannot write to --out {str(out)!r}: {error.strerror}; give a folder that you may write to"
        ) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, out: Path, names: Sequence[str]) -> None:
    """Move the finished files to `out`, the record last, and remove files of an earlier run that this one did not make."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (staging / name).is_dir():
            shutil.rmtree(out / name, ignore_errors=True)
            os.replace(staging / name, out / name)
        elif (staging / name).exists():
            os.replace(staging / name, out / name)
        else:
            (out / name).unlink(missing_ok=True)
