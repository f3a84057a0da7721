"""`omni123 assemble`: trained stages to one pipeline folder."""

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
