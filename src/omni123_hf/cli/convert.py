"""`omni123 convert`: checkpoints of other projects to pipeline folders of this one."""

import sys
from pathlib import Path
from typing import Annotated

import typer


convert_app = typer.Typer(help="Convert checkpoints of other projects.", no_args_is_help=True)


@convert_app.callback()
def convert() -> None:
    """Convert checkpoints of other projects."""


@convert_app.command()
def cube3d(
    gpt: Annotated[
        str,
        typer.Option(
            help="shape_gpt.safetensors, or a Hub id 'Roblox/cube3d-v0.5', 'org/name@revision' or 'org/name:file'."
        ),
    ],
    tokenizer: Annotated[str, typer.Option(help="shape_tokenizer.safetensors, or a Hub id, as for --gpt.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Pipeline folder to write.")],
    config: Annotated[
        Path | None,
        typer.Option(help="Cube 3D's configuration as JSON: RoPE's theta and epsilons; checked against the tensors."),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="CLIP text model with its tokenizer, a folder or a Hub id: openai/clip-vit-large-patch14."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16; as stored in the files when left out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.")] = False,
) -> None:
    """Convert a Cube 3D checkpoint (v0.1, v0.5, or another of its form). Its licence stays that of its weights."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from omni123_hf.conversion.cube3d import convert_cube3d, text_encoder_command

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    result = convert_cube3d(gpt, tokenizer, out, config, text_encoder, dtype, overwrite)
    if result.unknown_settings:
        print(f"settings of --config that mean nothing here: {', '.join(result.unknown_settings)}", file=sys.stderr)
    typer.echo(f"{out}: {result.parameters:,} parameters; licence and lineage in {out / 'README.md'}")
    if not result.has_text_encoder:
        typer.echo("The folder has no text encoder yet, so it takes prompt_embeds only. To add one:")
        typer.echo(f"  {text_encoder_command(gpt, tokenizer, out, config, dtype)}")
