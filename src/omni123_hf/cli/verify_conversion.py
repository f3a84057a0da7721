"""`omni123 verify-conversion`: a converted checkpoint against stored outputs of the reference."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from omni123_hf.errors import Omni123Error


def verify_conversion(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder with shape_gpt, shape_tokenizer and io.safetensors and, if need be, config.json."),
    ],
    tolerance: Annotated[float, typer.Option(help="Greatest absolute error that passes.")] = 1e-4,
    out: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
) -> None:
    """Convert a Cube 3D checkpoint and compare it with stored outputs.

    Exit code 1 when an error exceeds the tolerance, or a stored tensor is neither a known input nor a known output.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from omni123_hf.conversion.verify_cube3d import verify_cube3d
    from omni123_hf.geometry.export import write_atomic

    if out is not None and out.is_dir():
        raise Omni123Error(f"--out {str(out)!r} is a folder; give a file")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    report = verify_cube3d(folder, tolerance)
    text = json.dumps(report, indent=2) + "\n"
    if out is not None:
        write_atomic(out, text.encode())
    typer.echo(text, nl=False)
    if report["unknown"]:
        unknown = ", ".join(report["unknown"])
        print(f"stored tensors that are no known input or output were not compared: {unknown}", file=sys.stderr)
    if not report["passed"]:
        raise typer.Exit(1)
