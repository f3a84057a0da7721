"""`omni123 info`: what is installed, which checkpoints are bundled, and what one checkpoint holds."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer

from omni123_hf import __version__
from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines import registry


LIBRARIES = ("torch", "transformers", "diffusers", "trimesh", "numpy")


def info(
    model: Annotated[str | None, typer.Argument(help="Bundled name or folder of a checkpoint to describe.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, bundled checkpoints, or one checkpoint's parts and revision."""
    facts = describe_installation() if model is None else describe_checkpoint(model)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, entry in value.items():
                typer.echo(f"  {name}: {_short(entry)}")
        else:
            typer.echo(f"{key}: {_short(value)}")


def describe_installation() -> dict[str, Any]:
    """Versions and bundled checkpoints (name to revision), without importing torch."""
    return {
        "omni123-hf": __version__,
        "python": platform.python_version(),
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "checkpoints": {
            name: registry.checkpoint_revision(path) for name, path in registry.bundled_checkpoints().items()
        },
    }


def describe_checkpoint(name: str) -> dict[str, Any]:
    """Parts, parameters and revision of a checkpoint that is on this machine, read from the file headers."""
    folder = registry.resolve_checkpoint(name)
    if folder is None:
        raise Omni123Error(f"{name!r} is a Hub id; download it first and give its folder")
    registry.check_checkpoint(folder)
    index = registry.read_index(folder)
    parts = {
        part: {"class": index[part][1], "parameters": _parameters(folder / part)}
        for part in registry.component_names(folder)
    }
    provenance = {key: value for key, value in registry.provenance(folder).items() if key not in ("files", "revision")}
    return {
        "name": name,
        "revision": registry.checkpoint_revision(folder),
        "pipeline": index.get("_class_name"),
        "parameters": sum(part["parameters"] for part in parts.values()),
        "components": parts,
        "absent": [part for part, entry in index.items() if entry == [None, None]],
        "settings": {key: value for key, value in index.items() if key.startswith("default_")},
        "provenance": provenance,
    }


def library_version(name: str) -> str:
    """Installed version of a distribution, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _parameters(component: Path) -> int:
    headers = (registry.safetensors_header(file) for file in sorted(component.glob("*.safetensors")))
    return sum(prod(tensor["shape"]) for header in headers for tensor in header.values())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return "; ".join(map(_short, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
