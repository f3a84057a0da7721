"""`omni123 assemble` and `omni123 extend`: trained stages to one pipeline folder."""

from pathlib import Path
from typing import Annotated

import typer


def assemble(
    runs: Annotated[Path, typer.Argument(help="Folder that holds the stages' output folders.")],
    data: Annotated[Path, typer.Option("--data", help="The prepared data set they were trained on.")],
    out: Annotated[Path, typer.Option("--out", help="Pipeline folder to write, such as checkpoints/omni123-mini.")],
    trained_on: Annotated[str, typer.Option(help="Hardware and precision of the training, for the card.")] = "",
    guidance_scale: Annotated[float, typer.Option(help="Default guidance of the checkpoint; the paper's is 5.")] = 5.0,
) -> None:
    """Put trained stages together as a pipeline folder with lineage, logs, recipes and hashes."""
    from omni123_hf.pipelines.assemble import assemble as assemble_folder

    folder = assemble_folder(runs, data, out, trained_on=trained_on, guidance_scale=guidance_scale)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    typer.echo(f"{folder}: {size / 1e6:.1f} MB")


def extend(
    checkpoint: Annotated[str, typer.Argument(help="Bundled name or folder of the checkpoint to go on from.")],
    run: Annotated[Path, typer.Option("--run", help="Output folder of the later stage, run to its end.")],
    name: Annotated[str, typer.Option("--name", help="What to call the stage in the checkpoint's logs and recipes.")],
    out: Annotated[Path, typer.Option("--out", help="Pipeline folder to write; may be the checkpoint itself.")],
    trained_on: Annotated[str, typer.Option(help="Hardware and precision of the training, for the card.")] = "",
    edit_guidance_scale: Annotated[
        float | None, typer.Option(help="Default guidance of the checkpoint's edits.")
    ] = None,
    edit_source_bias: Annotated[
        float | None, typer.Option(help="What its edits add to the logits of the source's own codes by default.")
    ] = None,
) -> None:
    """Put a later stage's backbone and text encoders into a checkpoint; its tokenizers and its history stay."""
    from omni123_hf.pipelines.extend_checkpoint import extend_checkpoint

    folder = extend_checkpoint(
        checkpoint,
        run,
        out,
        name,
        trained_on=trained_on,
        edit_guidance_scale=edit_guidance_scale,
        edit_source_bias=edit_source_bias,
    )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    typer.echo(f"{folder}: {size / 1e6:.1f} MB")
