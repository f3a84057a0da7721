"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from omni123_hf.errors import Omni123Error


Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Model = Annotated[str, typer.Option("--model", help="Bundled name, folder, or Hub id of the checkpoint.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or mps.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the sampling (no effect at temperature 0).")]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale", help="Strength of the condition; 1 is unguided; the checkpoint's own when left out."
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Sample among the k likeliest codes.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Sample in the nucleus of this probability.")]
Resolution = Annotated[int, typer.Option("--resolution", help="Points on a side of the surface extraction grid.")]
Extraction = Annotated[
    str,
    typer.Option("--extraction", help="Where the field is asked for the surface: dense (everywhere), safe or fast."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the record of each result as a line of JSON, and nothing else.")
]
Prompt = Annotated[str | None, typer.Option("--prompt", help="What the object is, to help along.")]
Format = Annotated[str, typer.Option("--format", help="Of meshes: glb, obj, stl or ply.")]
TargetFaces = Annotated[int | None, typer.Option("--target-faces", help="Decimate to at most this many faces.")]
Floaters = Annotated[
    float,
    typer.Option("--remove-floaters", help="Remove pieces with less than this share of the surface; 0 keeps all."),
]
LongestSide = Annotated[
    float | None,
    typer.Option(
        "--longest-side",
        help="Scale the mesh to this length of its longest side, in the unit of choice; 1.92 if not given.",
    ),
]
Views = Annotated[str, typer.Option("--views", help="Some of front,back,left,right,top,bottom, with commas.")]
Color = Annotated[
    str | None,
    typer.Option("--color", help="Colour from the model's own six views: vertex or texture (GLB with a picture)."),
]
TextureSize = Annotated[int, typer.Option("--texture-size", help="Texels on a side of --color texture.")]


def check_color(mode: str | None, texture_size: int = 1024, longest_side: float | None = None) -> str | None:
    """A mode of colour, or None. Raises `Omni123Error` for another one, and for sizes that cannot be, before any work."""
    if mode is not None and longest_side is not None:
        raise Omni123Error(
            "--color is projected in the model's own frame; leave out --longest-side, or scale the result"
        )
    if mode not in (None, "vertex", "texture"):
        raise Omni123Error(f"there is no colour mode {mode!r}; use --color vertex or --color texture")
    if not 64 <= texture_size <= 8192:
        raise Omni123Error(f"--texture-size must be 64 to 8192 texels; got {texture_size}")
    return mode


def check_format(text: str, color: str | None = None) -> str:
    """The suffix of a mesh format, without its dot. Raises `Omni123Error` before any work for another one, and for a colour
    that the format cannot hold."""
    from omni123_hf.geometry.export import FORMATS

    if f".{text}" not in FORMATS:
        raise Omni123Error(f"unknown mesh format {text!r}; use one of {', '.join(name[1:] for name in FORMATS)}")
    if color is not None and (text == "stl" or (color == "texture" and text != "glb")):
        raise Omni123Error(f"a {text} file cannot hold --color {color}; use --format glb")
    return text


def split_views(text: str) -> list[str]:
    """`front, left` as a list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def finish_settings(target_faces: int | None, floater_share: float, longest_side: float | None = None) -> Any:
    """What is done to meshes after extraction. Raises `Omni123Error` for numbers that cannot be."""
    from omni123_hf.geometry.postprocess import FinishSettings

    return FinishSettings(floater_share=floater_share, target_faces=target_faces, longest_side=longest_side)
