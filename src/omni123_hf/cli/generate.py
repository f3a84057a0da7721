"""`omni123 generate`: a prompt in, a mesh, a preview, a record and, where the checkpoint makes one, a picture out."""

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

from omni123_hf import __version__
from omni123_hf.cli.info import LIBRARIES, library_version
from omni123_hf.cli.options import Extraction
from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase

FILES = ("image.png", "mesh.glb", "preview.png", "result.json")


def generate(
    prompt: Annotated[str, typer.Argument(help="What to make, for example 'a round wooden table with three legs'.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for mesh.glb, preview.png, result.json and, where one is made, image.png."
        ),
    ],
    model: Annotated[str, typer.Option(help="Bundled name, folder, or Hub id of the checkpoint.")] = "omni123-mini",
    lora: Annotated[str | None, typer.Option(help="Folder or Hub id of an adapter for that checkpoint.")] = None,
    lora_scale: Annotated[float, typer.Option(help="Strength of the adapter: 0 is the checkpoint alone.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling (no effect at temperature 0).")] = 0,
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
    extraction: Extraction = "safe",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Generate a watertight mesh, and an image where the checkpoint makes one, from a text."""
    started = time.perf_counter()
    if lora is None and lora_scale != 1.0:
        raise Omni123Error("--lora-scale needs --lora, the adapter that it weighs")
    with staging_folder(out) as staging:
        settings: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "guidance_schedule": guidance_schedule,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "resolution": resolution,
            "extraction": extraction,
        }
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
        loaded = time.perf_counter() - started
        with progress_callbacks(quiet) as callbacks:
            output: Any = pipeline(prompt, seed=seed, **settings, **callbacks)
        result: dict[str, Any] = {
            "prompt": prompt,
            "seed": seed,
            "task": pipeline.task,
            "model": {"name": model, "revision": pipeline.revision, "adapters": pipeline.describe_adapters()},
            "settings": {**settings, "device": device},
            "tokens": count_tokens(pipeline, prompt, output),
            "seconds": {"load": loaded, **output.timings},
            "mesh": output.health[0],
            "extraction": output.extraction[0],
            "failure": output.failures[0],
            "versions": {"omni123-hf": __version__, **{name: library_version(name) for name in LIBRARIES}},
        }
        write_files(staging, output, result)
        result["seconds"]["total"] = time.perf_counter() - started
        result["seconds"] = {part: round(seconds, 3) for part, seconds in result["seconds"].items()}
        (staging / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        publish(staging, out)
    if output.failures[0] is not None:
        print(f"error: the model gave no surface for this prompt: {output.failures[0]}", file=sys.stderr)
        raise typer.Exit(1)
    health = output.health[0]
    typer.echo(
        f"{out / 'mesh.glb'}: {health['faces']:,} faces, {health['components']} component(s), "
        f"{'watertight' if health['watertight'] else 'NOT watertight'}; {result['seconds']['total']:.1f} s"
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


def count_tokens(pipeline: "Omni123PipelineBase", prompt: str, output: Any) -> dict[str, int]:
    """Prompt tokens as each text encoder reads them, and the generated codes."""
    counts = {"text": len(pipeline.tokenizer(prompt, truncation=True)["input_ids"])}
    if pipeline.tokenizer_2 is not None:
        counts["text_2"] = len(pipeline.tokenizer_2(prompt)["input_ids"])
    if output.image_tokens is not None:
        counts["image"] = int(output.image_tokens.shape[1])
    return {**counts, "shape": int(output.shape_tokens.shape[1])}


def write_files(folder: Path, output: Any, result: dict[str, Any]) -> None:
    """Write the picture where the pipeline makes one and, where there is a surface, the mesh and the preview."""
    from omni123_hf.geometry.export import export_glb
    from omni123_hf.geometry.preview import contact_sheet

    image = None if output.images is None else output.images[0]
    mesh = output.meshes[0]
    if image is not None:
        image.save(folder / "image.png")
    if mesh is not None:
        facts = {
            "prompt": result["prompt"],
            "seed": result["seed"],
            "model": result["model"],
            "generator": "omni123-hf",
        }
        export_glb(mesh, folder / "mesh.glb", facts)
        contact_sheet(mesh, image=image).save(folder / "preview.png")


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


def publish(staging: Path, out: Path, names: Sequence[str] = FILES) -> None:
    """Move the finished files to `out`, the record last, and remove files of an earlier run that this one did not make."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (staging / name).exists():
            os.replace(staging / name, out / name)
        else:
            (out / name).unlink(missing_ok=True)
