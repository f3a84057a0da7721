"""The sequence grammar: every task is one row, read by training and generation alike (paper Tables 4 and 7, §4.5, §5).

A row lists segments in order. Prefix segments are given, mutually visible and without loss; target segments are causal
and their codes carry the loss. Every image or shape segment is preceded by its start token `<image>` or `<shape>`; a
view token stands before the start token of its image. Start and view tokens are never targets. Text is no segment: it
enters through the conditioning stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from ..errors import Omni123Error
from .configuration_omni123 import Omni123Config


Kind = Literal["image", "shape", "view"]
Modality = Literal["image", "shape"]


@dataclass(frozen=True)
class Segment:
    """One piece of a sequence. `default_view` is the view a view segment takes when the caller names none."""

    kind: Kind
    name: str
    is_prefix: bool = False
    default_view: int = 0


@dataclass(frozen=True)
class Task:
    """One row of the table. `stage` is the training stage that introduces it.

    `text_dropout` is the probability that the text is dropped (p_drop of §4.4). `prefix_dropout` is the part of it in
    which the prefix goes as well, so that text + prefix, prefix only and unconditional all occur in training.
    """

    name: str
    stage: Literal["pretraining", "continued", "sft", "edit"]
    segments: tuple[Segment, ...]
    text_dropout: float = 0.1
    prefix_dropout: float = 0.0

    @property
    def prefix(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.is_prefix)

    @property
    def targets(self) -> tuple[Segment, ...]:
        """The segments a model generates; view segments are not among them."""
        return tuple(segment for segment in self.segments if not segment.is_prefix and segment.kind != "view")

    def draw_dropout(self, rng: np.random.Generator) -> tuple[bool, bool]:
        """Draws `(null_text, drop_prefix)` for one training row; a dropped prefix always means a dropped text."""
        draw = rng.random()
        return bool(draw < max(self.text_dropout, self.prefix_dropout)), bool(draw < self.prefix_dropout)

    def with_causal_sources(self) -> "Task":
        """The same row with its sources as targets: the other reading of Table 7, loss on the whole sequence."""
        return replace(
            self, segments=tuple(replace(segment, is_prefix=False) for segment in self.segments), prefix_dropout=0.0
        )


def _row(name: str, stage: Any, prefix: list[Segment], targets: list[Segment]) -> Task:
    given = tuple(replace(segment, is_prefix=True) for segment in prefix)
    return Task(name, stage, given + tuple(targets), prefix_dropout=0.05 if prefix else 0.0)


def _posed_images(first: int, count: int) -> list[Segment]:
    """`[view_k, image_k]` pairs numbered from `first`, counted from 1 as in Table 7; view_k defaults to view k - 1."""
    pairs = [
        (Segment("view", f"view_{k}", default_view=k - 1), Segment("image", f"image_{k}"))
        for k in range(first, first + count)
    ]
    return [segment for pair in pairs for segment in pair]


def _table(n: int, m: int) -> dict[str, Task]:
    """All 13 rows, with `n` images where the paper writes Img×N and `m` more where it writes Img×M."""
    image, shape, view = Segment("image", "image"), Segment("shape", "shape"), Segment("view", "view")
    source_image, source_view = Segment("image", "source_image"), Segment("view", "source_view")
    source_shape = Segment("shape", "source_shape")
    rows = [
        # Pre-training, Table 4.
        _row("text-to-image", "pretraining", [], [image]),
        _row("text-to-3d", "pretraining", [], [shape]),
        _row("image-to-3d", "pretraining", [image], [shape]),
        _row("3d-to-image", "pretraining", [shape], [image]),
        # Continued training with view tokens, §4.5.
        _row("image-to-posed-image", "continued", [source_view, source_image], [view, image]),
        _row("3d-to-posed-image", "continued", [shape], [view, image]),
        _row("text-to-posed-image", "continued", [], [view, image]),
        # Interleaved SFT, Table 7. What stands left of the first arrow and is not text is given, hence a prefix.
        _row("text-to-image-to-3d", "sft", [], [image, shape]),
        _row("text-to-3d-to-image", "sft", [], [shape, view, image]),
        _row("images-to-3d", "sft", _posed_images(1, n), [shape]),
        _row("3d-to-images", "sft", [shape], _posed_images(1, n)),
        _row("text-to-images-to-3d-to-images", "sft", [], [*_posed_images(1, n), shape, *_posed_images(n + 1, m)]),
        # Instruction-based editing, §5.
        _row("edit-3d", "edit", [source_shape], [shape]),
    ]
    return {row.name: row for row in rows}


DEFAULT_NUM_IMAGES, DEFAULT_NUM_EXTRA_IMAGES = 4, 2
TASKS: dict[str, Task] = _table(DEFAULT_NUM_IMAGES, DEFAULT_NUM_EXTRA_IMAGES)


def get_task(
    name: str, num_images: int = DEFAULT_NUM_IMAGES, num_extra_images: int = DEFAULT_NUM_EXTRA_IMAGES
) -> Task:
    """The row called `name`; `num_images` is N and `num_extra_images` is M of Table 7."""
    if name not in TASKS:
        raise Omni123Error(f"There is no task {name!r}. Use one of: {', '.join(TASKS)}.")
    if num_images < 1 or num_extra_images < 1:
        raise Omni123Error(f"num_images {num_images} and num_extra_images {num_extra_images} must be at least 1.")
    return _table(num_images, num_extra_images)[name]


@dataclass(frozen=True)
class Sequence:
    """`ids` and `labels` are int64 `(T,)` or `(B, T)`; labels are -100 where there is no loss."""

    ids: torch.Tensor
    labels: torch.Tensor
    prefix_length: int


@dataclass(frozen=True)
class Step:
    """One step of a generation plan.

    "prefill" (prefix) and "force" (start tokens, views, given targets) carry flat `ids (1 or B, k)`;
    "sample" asks for `count` codes of `modality`, returned under `name`. Where it has `favoured`, local codes `(1 or B, count)`,
    `bonus` is added to the logit of each at its own place.
    """

    action: Literal["prefill", "force", "sample"]
    ids: torch.Tensor | None = None
    modality: Modality | None = None
    count: int = 0
    name: str = ""
    favoured: torch.Tensor | None = None
    bonus: float = 0.0


def segment_length(segment: Segment, config: Omni123Config) -> int:
    """Positions a segment takes, its start token included."""
    return {"view": 1, "image": 1 + config.num_image_tokens, "shape": 1 + config.num_shape_tokens}[segment.kind]


def sequence_length(task: Task, config: Omni123Config) -> int:
    """T of the task's sequences, all start and view tokens included."""
    return sum(segment_length(segment, config) for segment in task.segments)


def prefix_length(task: Task, config: Omni123Config) -> int:
    """How many leading positions are mutually visible."""
    return sum(segment_length(segment, config) for segment in task.prefix)


def build_sequence(task: Task, parts: Mapping[str, Any], config: Omni123Config) -> Sequence:
    """Lays out one training sequence, or a batch of them.

    `parts` maps segment names to local codes, integers `(n,)` or `(B, n)`, and view segments to a view index or
    `(B,)` indices (absent: the row's default). Raises `Omni123Error` for missing, unknown or ill-sized parts.
    """
    _check_names(task, parts, required=[s.name for s in task.segments if s.kind != "view"])
    pieces: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    for segment in task.segments:
        if segment.kind == "view":
            ids = _view_ids(segment, parts, config)
            pieces.append(ids)
            labels.append(torch.full_like(ids, -100))
            continue
        ids = _code_ids(segment, parts[segment.name], config)
        start = torch.full_like(ids[..., :1], _start_id(segment, config))
        pieces += [start, ids]
        labels += [torch.full_like(start, -100), torch.full_like(ids, -100) if segment.is_prefix else ids]
    return Sequence(_concatenate(pieces), _concatenate(labels), prefix_length(task, config))


def generation_plan(task: Task, config: Omni123Config, given: Mapping[str, Any] | None = None) -> list[Step]:
    """What generation prefills, forces and samples, in order.

    `given` holds what the caller already has, in the form of `build_sequence`'s parts: all prefix codes, any view
    index, and optionally target codes, which are then forced (causally) instead of sampled.
    """
    given = given or {}
    _check_names(task, given, required=[s.name for s in task.prefix if s.kind != "view"])
    steps: list[Step] = []
    for segment in task.segments:
        action: Literal["prefill", "force"] = "prefill" if segment.is_prefix else "force"
        if segment.kind == "view":
            steps.append(Step(action, _view_ids(segment, given, config).reshape(-1, 1)))
            continue
        steps.append(Step(action, torch.tensor([[_start_id(segment, config)]])))
        if segment.name in given:
            ids = _code_ids(segment, given[segment.name], config)
            steps.append(Step(action, ids.reshape(-1, ids.shape[-1]), name=segment.name))
        else:
            count = segment_length(segment, config) - 1
            steps.append(Step("sample", modality=segment.kind, count=count, name=segment.name))
    return steps


def _start_id(segment: Segment, config: Omni123Config) -> int:
    return config.shape_start_id if segment.kind == "shape" else config.image_start_id


def _check_names(task: Task, parts: Mapping[str, Any], required: list[str]) -> None:
    known = [segment.name for segment in task.segments]
    unknown = [name for name in parts if name not in known]
    if unknown:
        raise Omni123Error(f"Task {task.name!r} has no segment {unknown[0]!r}. Its segments: {', '.join(known)}.")
    missing = [name for name in required if name not in parts]
    if missing:
        raise Omni123Error(f"Task {task.name!r} needs the codes of {', '.join(missing)}: pass them by these names.")


def _integers(value: Any, what: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        array = np.asarray(value)
        # torch cannot hold every unsigned type; token shards are uint16.
        value = torch.from_numpy(array.astype(np.int64)) if array.dtype.kind in "iu" else torch.as_tensor(array)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise Omni123Error(f"{what} must be integers, not {value.dtype}.")
    return value.long()


def _code_ids(segment: Segment, codes: Any, config: Omni123Config) -> torch.Tensor:
    what = f"Codes of {segment.name!r}"
    codes = _integers(codes, what)
    total = config.num_shape_codes if segment.kind == "shape" else config.num_image_codes
    expected = segment_length(segment, config) - 1
    if codes.ndim not in (1, 2) or codes.shape[-1] != expected:
        raise Omni123Error(f"{what} have shape {tuple(codes.shape)}: give ({expected},) or (batch, {expected}).")
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= total):
        raise Omni123Error(
            f"{what} reach from {int(codes.min())} to {int(codes.max())}: this model has codes 0 to {total - 1}. "
            "Use the tokenizer that the model was trained with."
        )
    return codes + (0 if segment.kind == "shape" else config.image_offset)


def _view_ids(segment: Segment, parts: Mapping[str, Any], config: Omni123Config) -> torch.Tensor:
    index = _integers(parts.get(segment.name, segment.default_view), f"View {segment.name!r}")
    if not config.num_views:
        raise Omni123Error(
            f"View {segment.name!r} needs a model with views: this one has none (resize_view_embeddings)."
        )
    if index.ndim > 1 or int(index.min()) < 0 or int(index.max()) >= config.num_views:
        raise Omni123Error(
            f"View {segment.name!r} is {index.tolist()}: give an index, or one for each row, from 0 to "
            f"{config.num_views - 1}."
        )
    return config.view_offset + index.reshape(-1, 1) if index.ndim else config.view_offset + index.reshape(1)


def _concatenate(pieces: list[torch.Tensor]) -> torch.Tensor:
    batch = {piece.shape[0] for piece in pieces if piece.ndim == 2}
    if len(batch) > 1:
        raise Omni123Error(f"The parts hold different batch sizes {sorted(batch)}: give every part the same rows.")
    if batch:
        rows = batch.pop()
        pieces = [piece if piece.ndim == 2 else piece.expand(rows, -1) for piece in pieces]
    return torch.cat(pieces, dim=-1)
