"""What a job leaves behind: a folder for each sample with its picture, its mesh and its record."""

import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import trimesh
from PIL import Image

from omni123_hf import __version__
from omni123_hf.geometry.export import export_glb


SLUG_LENGTH = 40


@dataclass
class Sample:
    """One result. pictures: view name (or "image") to file. mesh: None where there is no surface. tokens: (Ls,) on the CPU."""

    pictures: dict[str, Path] = field(default_factory=dict)
    mesh: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)
    record_file: Path | None = None
    tokens: torch.Tensor | None = None

    @property
    def files(self) -> list[Path]:
        """All of them, the record last."""
        found = [*self.pictures.values(), self.mesh, self.record_file]
        return [path for path in found if path is not None]


def slug(text: str, fallback: str) -> str:
    """A text as a part of a file name: `a-red-chair`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:SLUG_LENGTH].strip("-") or fallback


def write_sample(
    folder: Path,
    name: str,
    facts: dict[str, Any],
    pictures: dict[str, Image.Image] | None = None,
    mesh: trimesh.Trimesh | None = None,
    health: dict[str, Any] | None = None,
    failure: str | None = None,
    tokens: torch.Tensor | None = None,
    outcome: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Sample:
    """Writes one sample as `NAME.glb`, `NAME_PICTURE.png` and `NAME.json` into `folder`.

    facts: what was asked for: task, prompt, seed, model, settings; they go into the record and into the mesh file's
    `asset.extras`. provenance: further facts for the mesh file alone. outcome: further facts for the record alone.
    """
    sample = Sample(tokens=None if tokens is None else tokens.detach().cpu())
    for kind, picture in (pictures or {}).items():
        sample.pictures[kind] = folder / f"{name}_{slug(kind, 'image')}.png"
        picture.save(sample.pictures[kind])
    if mesh is not None:
        extras = {"generator": "omni123-hf", **facts, **(provenance or {})}
        sample.mesh = export_glb(mesh, folder / f"{name}.glb", extras)
    sample.record_file = folder / f"{name}.json"
    sample.record = {
        **facts,
        **(outcome or {}),
        "mesh": health,
        "failure": failure,
        "files": [path.name for path in sample.files],
        "omni123_hf": __version__,
    }
    sample.record_file.write_text(json.dumps(sample.record, indent=2) + "\n", encoding="utf-8")
    return sample


def keep(samples: list[Sample], outputs: Path | None, name: str) -> None:
    """Copies the files into a new folder below `outputs` (`--outputs`), which appears when it is whole."""
    files = [path for sample in samples for path in sample.files]
    if outputs is None or not files:
        return
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{secrets.token_hex(2)}"
    staging = outputs / f".{stamp}"
    staging.mkdir(parents=True)
    for path in files:
        shutil.copy2(path, staging / path.name)
    staging.rename(outputs / stamp)
