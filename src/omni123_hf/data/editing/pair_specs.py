"""What pair preparation takes: a pair named cheaply, and the same pair opened in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trimesh

from omni123_hf.data.editing.records import EditPair


Captions = dict[str, list[str]]


@dataclass
class OpenedPair:
    """A pair with its two meshes, both already in the pair's frame (`frames.pair_frame`), and words about each shape.

    `pair.region` and `pair.changed_share` may be None: preparation then measures them.
    """

    pair: EditPair
    category: str
    source: trimesh.Trimesh
    target: trimesh.Trimesh
    source_captions: Captions
    target_captions: Captions


class PairSpec(Protocol):
    """A pair that is small enough to send to a worker and is opened there."""

    @property
    def id(self) -> str: ...

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is read from. A run goes on only while their sizes and times are those that it began with."""
        ...

    def open(self) -> OpenedPair:
        """Build or load the pair. Raises `RejectedError` when it cannot be used."""
        ...


def captions_from_instruction(instructions: list[str], done: bool) -> Captions:
    """Words about a shape that comes without any: what was, or will be, done to it."""
    state = "after" if done else "before"
    return {"short": [], "medium": [f"an object {state} this edit: {instructions[0]}"], "long": []}
