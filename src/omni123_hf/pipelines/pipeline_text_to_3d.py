"""Text to a 3D shape, without an image in between (paper Table 4, row text -> 3D); also runs converted Cube 3D checkpoints."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.postprocess import FinishSettings, with_target_faces
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.pipeline_base import (
    DEFAULT_EXTRACTION,
    DEFAULT_RESOLUTION,
    PAPER_GUIDANCE_SCALE,
    Omni123PipelineBase,
    StepCallback,
    TextConditioning,
    timed,
)
from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput
from omni123_hf.pipelines.sampling import Schedule


# Cube 3D's convention for the box it is asked for; its meshes themselves measure 1.92.
BOX_LONGEST_SIDE = 1.925
Box = torch.Tensor | Sequence[float] | Sequence[Sequence[float] | None]


class Omni123TextTo3DPipeline(Omni123PipelineBase):
    """Generates a shape from a prompt and, where the checkpoint was trained with them, from the proportions of a box.

    Components: backbone and shape tokenizer, and the text encoders of the checkpoint with their tokenizers: CLIP and Qwen3
    for Omni123 checkpoints, CLIP alone for converted Cube 3D ones. Without them it takes `prompt_embeds` only.

    ```python
    pipeline = Omni123TextTo3DPipeline.from_pretrained("omni123-mini")
    output = pipeline("a round wooden table with three legs")
    output.meshes[0].export("mesh.glb")
    ```
    """

    task = "text-to-3d"
    _optional_components = ["tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"]

    def __init__(
        self,
        transformer: Omni123ForConditionalGeneration,
        shape_tokenizer: Omni123ShapeTokenizer,
        tokenizer: PreTrainedTokenizerFast | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer_2: PreTrainedTokenizerFast | None = None,
        text_encoder_2: Qwen3Model | None = None,
        default_guidance_scale: float = PAPER_GUIDANCE_SCALE,
        default_guidance_schedule: str = "constant",
    ):
        super().__init__()
        self.set_up(
            default_guidance_scale,
            default_guidance_schedule,
            transformer=transformer,
            shape_tokenizer=shape_tokenizer,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        prompt_embeds: torch.Tensor | TextConditioning | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        bbox: Box | None = None,
        num_samples: int = 1,
        guidance_scale: float | None = None,
        guidance_schedule: Schedule | None = None,
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
    ) -> Omni123PipelineOutput | tuple[Any, ...]:
        """`num_samples` meshes a prompt.

        prompt or prompt_embeds: one of the two. prompt_embeds is (B, L, D) for a checkpoint with one text encoder, or what
        `encode_prompt` returns for any. negative_prompt_embeds (1 or B, L, D): the empty prompt, for guidance with a
        checkpoint whose null condition is the empty prompt; encoded here when left out.
        bbox: sides (x, y, z) of the wanted box, one for all prompts or one a prompt, in any unit: only the proportions
        count. Zeros or None mean no box.
        num_samples: how many for each prompt; they differ at a temperature above 0 only.
        guidance_scale: omega of `uncond + omega (cond - uncond)`; 1 is unguided, 0 ignores the prompt; None is the
        checkpoint's own. guidance_schedule: constant or linear_decay (towards 1); None is the checkpoint's own.
        temperature: 0 is greedy (then top_k, top_p and the seed change nothing). top_k, top_p: restrict sampling.
        seed or generator: the source of randomness, one of the two.
        resolution: points on a side of the extraction grid over ±1.05.
        extraction: where the field is asked for the surface: dense (at every grid point), safe or fast (docs/extraction.md).
        target_faces: most faces of a mesh. finish: what else is done to it after extraction (`geometry.postprocess.FinishSettings`):
        floaters, smoothing, a real size.
        output_type: "trimesh" decodes, "tokens" stops at the codes.
        callback_on_step_end(pipeline, step, total, {"modality": "shape"}) runs after every token; its result is not used.
        callback_on_extraction(done, total) counts field evaluations.

        Raises `Omni123Error` for bad input. A shape without a surface is reported in `failures`, its mesh is None.
        """
        sampling = self.prepare_sampling(
            guidance_scale=guidance_scale,
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
        )
        if (prompt is None) == (prompt_embeds is None):
            raise Omni123Error("give a prompt or prompt_embeds, one of the two")
        prompts = None if prompt is None else self.check_prompts(prompt)
        finish = with_target_faces(finish, target_faces)
        timings: dict[str, float] = {}
        with timed(timings, "text_encoder"):
            text = _as_conditioning(prompt_embeds) if prompts is None else self.encode_prompt(prompts)
            null = self._null_embeds(negative_prompt_embeds, is_guided=sampling.guidance_scale != 1.0)
        rows = len(text.text_embeds)
        with timed(timings, "transformer"):
            codes = self.generate_codes(
                get_task(self.task),
                text,
                sampling,
                rows=rows,
                num_samples=num_samples,
                callback=callback_on_step_end,
                negative_text_embeds=null,
                bbox=self.check_bbox(bbox, rows),
            )
        meshes = failures = health = None
        reports: list[dict[str, Any] | None] = []
        if output_type == "trimesh":
            meshes, failures, health = self.decode_and_check_shapes(
                codes["shape"], resolution, callback_on_extraction, timings, finish, extraction, reports
            )
        output = Omni123PipelineOutput(
            meshes=meshes,
            shape_tokens=codes["shape"],
            health=health,
            failures=failures,
            timings=timings,
            extraction=reports or None,
        )
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def _null_embeds(self, given: torch.Tensor | None, is_guided: bool) -> torch.Tensor | None:
        """Embeddings of the empty prompt, for checkpoints whose null condition it is."""
        if self.transformer.config.null_condition == "learned":
            if given is not None:
                raise Omni123Error("this checkpoint has a learned null condition; leave out negative_prompt_embeds")
            return None
        return self.null_conditioning(is_guided) if given is None else given

    def check_bbox(self, bbox: Box | None, rows: int) -> torch.Tensor | None:
        """Boxes (B, 3) whose longest side is 1.925, zeros for none; None for a model without boxes.

        Raises `Omni123Error` for a box that is none, and for any box when the checkpoint was trained without.
        """
        if not self.transformer.config.use_bbox:
            if bbox is not None:
                raise Omni123Error("this checkpoint was trained without bounding boxes; leave out the box")
            return None
        if bbox is None:
            return torch.zeros(rows, 3)
        try:
            sides: Any = bbox
            if not isinstance(bbox, torch.Tensor):
                sides = [[0.0, 0.0, 0.0] if box is None else box for box in bbox]
            boxes = torch.as_tensor(sides, dtype=torch.float32, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise Omni123Error(
                "a box must be three numbers, the sides in x, y and z, or one such box a prompt"
            ) from error
        if boxes.shape == (3,):
            boxes = boxes.expand(rows, 3)
        if boxes.shape != (rows, 3):
            raise Omni123Error(
                f"the boxes are {tuple(boxes.shape)}; give three sides, or ({rows}, 3): one box a prompt"
            )
        is_none = (boxes == 0).all(dim=1, keepdim=True)
        if not (torch.isfinite(boxes) & ((boxes > 0) | is_none)).all():
            raise Omni123Error("every side of a box must be a positive number; three zeros mean no box")
        return torch.where(is_none, boxes, boxes * (BOX_LONGEST_SIDE / boxes.amax(dim=1, keepdim=True)))


def _as_conditioning(prompt_embeds: torch.Tensor | TextConditioning | None) -> TextConditioning:
    text = prompt_embeds if isinstance(prompt_embeds, TextConditioning) else TextConditioning(prompt_embeds)  # type: ignore[arg-type]
    if not isinstance(text.text_embeds, torch.Tensor) or text.text_embeds.ndim != 3 or not len(text.text_embeds):
        raise Omni123Error("prompt_embeds must be a tensor (batch, length, width), or what encode_prompt returns")
    if not torch.isfinite(text.text_embeds).all():
        raise Omni123Error("prompt_embeds contain NaN or infinity; encode the prompt in float32")
    return text
