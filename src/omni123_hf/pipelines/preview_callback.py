"""Coarse meshes of a shape while its codes are still being written.

```python
preview = PreviewCallback(pipeline, lambda mesh, step, total, row: show(mesh), every=16)
pipeline("a round wooden table", callback_on_step_end=preview)
```

Shape codes have no order from coarse to fine: the first half of them is not half the detail. What is decoded here is the shape
that the codes so far would mean, by one of these completions.

| completion | the codes that are not there yet |
|---|---|
| `subset` | are left out: the decoder attends to those that are there, at their own positions |
| `ball` | are those that the shape tokenizer gives a ball |
| `mean` | are the mean of the code book, in the place of a code |
| `last` | repeat the last code |
| `source` | are those of the shape that an edit began with |

Measured by `benchmarks/preview.py` (docs/pipelines.md has the numbers).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.extraction import extract_surface
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase, StepCallback, check_resolution
from omni123_hf.pipelines.shape_input import encode_shapes


COMPLETIONS = ("subset", "ball", "mean", "last")
SOURCE_COMPLETION = "source"
# (mesh or None where there is no surface yet, step, total steps, row of the batch)
OnPreview = Callable[[trimesh.Trimesh | None, int, int, int], object]


@torch.no_grad()
def partial_field(
    known: torch.Tensor,
    tokenizer: Omni123ShapeTokenizer,
    completion: str,
    source: torch.Tensor | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """The field of the first codes (k,) of a shape, 1 <= k <= Ls: points (N, 3) to values (N,), positive inside.

    source: codes (Ls,), for the completion of that name. Raises `Omni123Error` for another completion.
    """
    count, total = len(known), tokenizer.config.num_latents
    vectors = tokenizer.embed_codes(known[None])
    if count < total and completion != "subset":
        if completion == "mean":
            every = torch.arange(tokenizer.config.num_codes, device=known.device)
            rest = tokenizer.embed_codes(every[None]).mean(dim=1, keepdim=True).expand(-1, total - count, -1)
        elif completion == "last":
            rest = vectors[:, -1:].expand(-1, total - count, -1)
        elif completion == "ball":
            rest = tokenizer.embed_codes(ball_tokens(tokenizer)[None, count:])
        elif completion == SOURCE_COMPLETION and source is not None:
            rest = tokenizer.embed_codes(source[None, count:].to(known.device))
        else:
            raise Omni123Error(f"there is no completion {completion!r} here; use one of {', '.join(COMPLETIONS)}")
        vectors = torch.cat([vectors, rest], dim=1)
    memory = tokenizer.project_latents(tokenizer.decode_vectors(vectors))

    @torch.no_grad()
    def field(points: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32)).to(known.device)
        return tokenizer.query(memory, batch[None])[0].float().cpu().numpy()

    return field


def ball_tokens(tokenizer: Omni123ShapeTokenizer) -> torch.Tensor:
    """Codes (Ls,) of a ball."""
    return encode_shapes(trimesh.creation.icosphere(3), tokenizer).tokens[0]


class PreviewCallback:
    """A `callback_on_step_end` for every pipeline that makes shapes: a coarse mesh of each row, every few shape codes.

    on_preview(mesh, step, total, row): called in the thread that generates, which waits for it. mesh is None where the codes so
    far have no surface. step and total count the sampled codes of the whole sequence, images included.
    every: shape codes between previews. The whole shape is left to the pipeline, which decodes it next.
    resolution: points on a side of the extraction grid; 32 is 1/27 of the work of the default 96.
    completion: what stands for the missing codes; None is `source` where a shape was given (edits), otherwise `subset`.
    rows: of the batch, only so many first ones; all if None.
    then: another callback, called at every step, after the preview of that step.

    Raises `Omni123Error` for settings that cannot be, and for a pipeline without a shape tokenizer.
    """

    def __init__(
        self,
        pipeline: Omni123PipelineBase,
        on_preview: OnPreview,
        every: int = 16,
        resolution: int = 32,
        completion: str | None = None,
        rows: int | None = None,
        then: StepCallback | None = None,
    ):
        tokenizer = getattr(pipeline, "shape_tokenizer", None)
        if tokenizer is None:
            raise Omni123Error(f"{type(pipeline).__name__} makes no shapes; there is nothing to preview")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise Omni123Error(f"a preview comes every 1, 2, ... codes; got {every!r}")
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
            raise Omni123Error(f"previews are of the first 1, 2, ... rows; got {rows!r}")
        if completion not in (None, *COMPLETIONS, SOURCE_COMPLETION):
            raise Omni123Error(
                f"there is no completion {completion!r}; use one of {', '.join((*COMPLETIONS, SOURCE_COMPLETION))}"
            )
        check_resolution(resolution)
        self.tokenizer: Omni123ShapeTokenizer = tokenizer
        self.on_preview, self.every, self.resolution = on_preview, every, resolution
        self.completion, self.rows, self.then = completion, rows, then

    def __call__(self, pipeline: Any, step: int, total: int, facts: dict[str, Any]) -> None:
        count = len(facts["codes"])
        if facts["modality"] == "shape" and count % self.every == 0 and count < self.tokenizer.config.num_latents:
            source = facts.get("given", {}).get("source_shape")
            codes = torch.cat(list(facts["codes"]), dim=1)
            for row, known in enumerate(codes[: self.rows]):
                mesh = self.preview(known, None if source is None else source[row])
                self.on_preview(mesh, step, total, row)
        if self.then is not None:
            self.then(pipeline, step, total, facts)

    def preview(self, known: torch.Tensor, source: torch.Tensor | None = None) -> trimesh.Trimesh | None:
        """The mesh of the first codes (k,) of a shape, None without a surface. source: codes (Ls,) that an edit began with."""
        completion = self.completion
        if completion is None:
            completion = COMPLETIONS[0] if source is None else SOURCE_COMPLETION
        elif completion == SOURCE_COMPLETION and source is None:
            raise Omni123Error("the completion 'source' is for edits; this pipeline was given no shape")
        field = partial_field(known, self.tokenizer, completion, source)
        try:
            return extract_surface(field, resolution=self.resolution)
        except Omni123Error:
            # No surface, or none that is closed, is what a preview of few codes often is.
            return None
