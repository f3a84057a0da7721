"""Models that run here and not behind an endpoint: sent to another process by name, and loaded there.

`TransformersBackend` and `ClipScorer` hold their weights, so sending one sends gigabytes through a pipe. What stands
here is checked once where it is opened, which loads the model and lets it go again, and loads it a second time where it
is used: at once where it arrives in another process, before anybody counts the time and memory of an asset there.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging

from omni123_hf.data.captioning.alignment import ClipScorer
from omni123_hf.data.captioning.backends import BackendError, Completion, Message, Sampling
from omni123_hf.data.captioning.schema import Schema
from omni123_hf.data.captioning.transformers_backend import TransformersBackend
from omni123_hf.errors import Omni123Error


# What decides a model's answers; cards, logs and weights of other libraries beside it do not.
MODEL_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class Weights:
    """Where a model lies: a folder, or a Hub id with its commit. model_id: its name in caches and records, which names
    the content and no folder of this machine."""

    name: str
    revision: str | None
    model_id: str


class LocalBackend:
    """A `ChatBackend`: `TransformersBackend` that loads where it answers. One process should hold it: each has its copy."""

    def __init__(self, weights: Weights, device: str = "cpu", guided: bool = True):
        self.weights, self.device, self.guided = weights, device, guided
        self._backend: TransformersBackend | None = None
        self._loading = threading.Lock()

    @classmethod
    def open(cls, name: str | Path, device: str = "cpu", guided: bool = True) -> LocalBackend:
        """Of a folder or Hub id (downloaded if need be). Raises `BackendError` when it cannot be used."""
        backend = TransformersBackend.from_pretrained(name, guided=guided)
        return cls(_weights(name, backend.model.config), device, guided)

    @property
    def model_id(self) -> str:
        """Of the weights; free answers of a model are not those it is held to."""
        return self.weights.model_id if self.guided else f"{self.weights.model_id}+free"

    def complete(self, messages: list[Message], schema: Schema, sampling: Sampling) -> Completion:
        """As `TransformersBackend.complete`."""
        return self.load().complete(messages, schema, sampling)

    def load(self) -> TransformersBackend:
        """The model itself, loaded on the first call."""
        with self._loading:
            if self._backend is None:
                dtype: torch.dtype | str = torch.float32 if self.device == "cpu" else "auto"
                self._backend = TransformersBackend.from_pretrained(
                    self.weights.name, dtype, self.device, self.guided, self.weights.revision
                )
            return self._backend

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers of data preparation have one thread each; the only one that writes has as many as its sender.
        return _arrived_backend, (self.weights, self.device, self.guided, torch.get_num_threads())


class LocalClip:
    """An `AlignmentScorer`: `ClipScorer` that loads where it scores. Each process has its copy."""

    def __init__(self, weights: Weights, device: str = "cpu"):
        self.weights, self.device = weights, device
        self._scorer: ClipScorer | None = None
        self._loading = threading.Lock()

    @classmethod
    def open(cls, name: str | Path, device: str = "cpu") -> LocalClip:
        """Of a folder or Hub id (downloaded if need be). Raises `Omni123Error` when it cannot be used."""
        scorer = ClipScorer.from_pretrained(name)
        return cls(_weights(name, scorer.model.config), device)

    @property
    def identity(self) -> dict[str, Any]:
        """As `ClipScorer.identity`."""
        return {"scorer": ClipScorer.VERSION, "model": self.weights.model_id}

    def score(self, images: Mapping[str, Image.Image], caption: str) -> float:
        """As `ClipScorer.score`."""
        return self.load().score(images, caption)

    def load(self) -> ClipScorer:
        """The model itself, loaded on the first call."""
        with self._loading:
            if self._scorer is None:
                self._scorer = ClipScorer.from_pretrained(self.weights.name, self.device, self.weights.revision)
            return self._scorer

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived_clip, (self.weights, self.device)


def usable_device(name: str | None) -> str:
    """The device to run on: `name`, or without one cuda where there is one. One that is not here raises `Omni123Error`."""
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = device.partition(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(kind, False):
        raise Omni123Error(
            f"there is no device {device!r} here; choose {' or '.join(k for k, v in present.items() if v)}"
        )
    return device


def _arrived_backend(weights: Weights, device: str, guided: bool, threads: int) -> LocalBackend:
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    backend = LocalBackend(weights, device, guided)
    backend.load()
    return backend


def _arrived_clip(weights: Weights, device: str) -> LocalClip:
    logging.disable_progress_bar()
    clip = LocalClip(weights, device)
    clip.load()
    return clip


def _weights(name: str | Path, config: Any) -> Weights:
    folder = Path(name)
    if folder.is_dir():
        return Weights(str(folder.absolute()), None, f"{folder.absolute().name}@{_content_hash(folder)[:12]}")
    commit = getattr(config, "_commit_hash", None)
    if commit is None:
        raise BackendError(f"the commit of {str(name)!r} is not known; download the model and give its folder")
    return Weights(str(name), commit, f"{name}@{commit}")


def _content_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES and path.is_file()):
        with open(file, "rb") as stream:
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
