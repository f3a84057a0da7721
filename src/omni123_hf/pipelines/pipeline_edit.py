"""Editing a shape by an instruction (paper §5)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from omni123_hf.geometry.edit_locality import edit_locality
from omni123_hf.geometry.extraction import evaluate_grid
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.geometry.postprocess import FinishSettings, with_target_faces
from omni123_hf.modeling.decoding import shape_field
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.pipeline_base import (
    DEFAULT_EXTRACTION,
    DEFAULT_RESOLUTION,
    PAPER_GUIDANCE_SCALE,
    QUERY_CHUNK,
    Omni123PipelineBase,
    StepCallback,
    timed,
)
from omni123_hf.pipelines.pipeline_output import Omni123EditOutput
from omni123_hf.pipelines.sampling import Drops, Schedule
from omni123_hf.pipelines.shape_input import Shape, encode_shapes


LOCALITY_RESOLUTION = 48


class Omni123EditPipeline(Omni123PipelineBase):
    """Changes a shape as an instruction says, and reports what changed.

    Components: the text encoders with their tokenizers, the backbone and the shape tokenizer.

    ```python
    pipeline = Omni123EditPipeline.from_pretrained("omni123-mini")
    output = pipeline("chair.glb", "add armrests")
    output.meshes[0].export("edited.glb"), output.locality[0]
    ```
    """

    task = "edit-3d"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: CLIPTextModel,
        tokenizer_2: PreTrainedTokenizerFast,
        text_encoder_2: Qwen3Model,
        transformer: Omni123ForConditionalGeneration,
        shape_tokenizer: Omni123ShapeTokenizer,
        default_guidance_scale: float = PAPER_GUIDANCE_SCALE,
        default_guidance_schedule: str = "constant",
    ):
        super().__init__()
        self.set_up(
            default_guidance_scale,
            default_guidance_schedule,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
            transformer=transformer,
            shape_tokenizer=shape_tokenizer,
        )

    @torch.no_grad()
    def __call__(
        self,
        shape: Shape | list[Shape],
        instruction: str | list[str],
        *,
        num_samples: int = 1,
        guidance_scale: float | None = None,
        guidance_schedule: Schedule | None = None,
        guidance_drops: Drops = "text",
        source_bias: float | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        resolution: int = DEFAULT_RESOLUTION,
        extraction: str = DEFAULT_EXTRACTION,
        target_faces: int | None = None,
        finish: FinishSettings | None = None,
        output_type: str = "trimesh",
        callback_on_step_end: StepCallback | None = None,
        callback_on_extraction: Callable[[int, int], object] | None = None,
        return_dict: bool = True,
    ) -> Omni123EditOutput | tuple[Any, ...]:
        """`num_samples` edited meshes a shape.

        shape: trimesh.Trimesh, path of a mesh file, or shape tokens; meshes are centred and scaled (y up, +z front), and results
        stay in that frame. instruction: one for all shapes, or one for each.
        num_samples: how many for each input; they differ at a temperature above 0 only.
        guidance_scale: omega of `uncond + omega (cond - uncond)`; 1 is unguided; None is the checkpoint's own.
        guidance_schedule: constant or linear_decay; None is the checkpoint's own.
        guidance_drops: what the unconditional rows go without: the text, or text_and_prefix (what is given, too); without a
        prompt always the latter.
        source_bias: added to the logit of the source's own code at the same place; more keeps more of the source, 0 is the paper's
        decoding, None is the checkpoint's own.
        temperature: 0 is greedy (then top_k, top_p and the seed change nothing). top_k, top_p: restrict sampling.
        seed or generator: the source of randomness, one of the two.
        resolution: points on a side of the extraction grid over ±1.05.
        extraction: where the field is asked for the surface: dense (at every grid point), safe or fast (docs/extraction.md).
        target_faces: most faces of a mesh. finish: what else is done to it after extraction (`geometry.postprocess.FinishSettings`):
        floaters, smoothing, a real size.
        output_type: "trimesh" decodes, "tokens" stops at the codes.
        callback_on_step_end(pipeline, step, total, facts) runs after every token, facts of `pipeline_base.StepCallback`; its result is not used.
        callback_on_extraction(done, total) counts field evaluations.

        Raises `Omni123Error` for bad input. A shape without a surface is reported in `failures`, its mesh is None.
        """
        sampling = self.prepare_sampling(
            guidance_scale=self.edit_guidance(guidance_scale),
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            generator=generator,
            output_type=output_type,
            resolution=resolution,
            extraction=extraction,
            num_samples=num_samples,
            guidance_drops=guidance_drops,
        )
        finish = with_target_faces(finish, target_faces)
        timings: dict[str, float] = {}
        with timed(timings, "input_encoder"):
            source = encode_shapes(shape, self.shape_tokenizer)
            favoured = self.source_preference(source.tokens, source_bias)
        rows = len(source.tokens)
        with timed(timings, "text_encoder"):
            text = self.encode_prompt(self.match_prompts(instruction, rows) or [])
        with timed(timings, "transformer"):
            codes = self.generate_codes(
                get_task(self.task),
                text,
                sampling,
                {"source_shape": source.tokens},
                rows=rows,
                num_samples=num_samples,
                callback=callback_on_step_end,
                favoured=favoured,
            )
        before = source.tokens.repeat_interleave(num_samples, dim=0)
        meshes = failures = health = locality = None
        reports: list[dict[str, Any] | None] = []
        if output_type == "trimesh":
            meshes, failures, health = self.decode_and_check_shapes(
                codes["shape"], resolution, callback_on_extraction, timings, finish, extraction, reports
            )
            with timed(timings, "locality"):
                locality = [
                    edit_locality(self.occupancy_grid(old), self.occupancy_grid(new)).to_dict()
                    for old, new in zip(before, codes["shape"], strict=True)
                ]
        output = Omni123EditOutput(
            meshes=meshes,
            shape_tokens=codes["shape"],
            source_tokens=before,
            transforms=[transform for transform in source.transforms for _ in range(num_samples)],
            changed=[bool((old != new).any()) for old, new in zip(before, codes["shape"], strict=True)],
            locality=locality,
            health=health,
            failures=failures,
            timings=timings,
            extraction=reports or None,
        )
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def occupancy_grid(self, tokens: torch.Tensor, resolution: int = LOCALITY_RESOLUTION) -> np.ndarray:
        """(R, R, R) bool, x first: what the tokens (Ls,) decode to at the points of a regular grid over ±1.05."""
        field = shape_field(tokens, self.shape_tokenizer)
        return evaluate_grid(field, resolution, FIELD_BOUND, chunk=QUERY_CHUNK) > 0
