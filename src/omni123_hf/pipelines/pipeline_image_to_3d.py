"""An image, with or without text, to a 3D shape (paper Table 4, row (text +) image -> 3D)."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from omni123_hf.geometry.postprocess import FinishSettings, with_target_faces
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.image_input import Picture
from omni123_hf.pipelines.pipeline_base import (
    DEFAULT_EXTRACTION,
    DEFAULT_RESOLUTION,
    PAPER_GUIDANCE_SCALE,
    Omni123PipelineBase,
    StepCallback,
    timed,
)
from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput
from omni123_hf.pipelines.sampling import Drops, Schedule


class Omni123ImageTo3DPipeline(Omni123PipelineBase):
    """Generates a shape from a picture of it.

    Components: all of a checkpoint.

    ```python
    pipeline = Omni123ImageTo3DPipeline.from_pretrained("omni123-mini")
    pipeline("chair.png", "a red chair").meshes[0].export("mesh.glb")
    ```
    """

    task = "image-to-3d"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: CLIPTextModel,
        tokenizer_2: PreTrainedTokenizerFast,
        text_encoder_2: Qwen3Model,
        transformer: Omni123ForConditionalGeneration,
        image_vae: Omni123ImageVAE,
        image_tokenizer: Omni123ImageTokenizer,
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
            image_vae=image_vae,
            image_tokenizer=image_tokenizer,
            shape_tokenizer=shape_tokenizer,
        )

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | list[Picture],
        prompt: str | list[str] | None = None,
        *,
        num_samples: int = 1,
        guidance_scale: float | None = None,
        guidance_schedule: Schedule | None = None,
        guidance_drops: Drops = "text",
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
        """`num_samples` meshes an image.

        image: PIL image, path or array of any size and mode; brought onto white and into a square. prompt: one for all images, one
        for each, or none.
        num_samples: how many for each input; they differ at a temperature above 0 only.
        guidance_scale: omega of `uncond + omega (cond - uncond)`; 1 is unguided; None is the checkpoint's own.
        guidance_schedule: constant or linear_decay; None is the checkpoint's own.
        guidance_drops: what the unconditional rows go without: the text, or text_and_prefix (what is given, too); without a
        prompt always the latter.
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
            guidance_drops=guidance_drops,
        )
        finish = with_target_faces(finish, target_faces)
        timings: dict[str, float] = {}
        with timed(timings, "input_encoder"):
            image_tokens = self.encode_images(image)
        rows = len(image_tokens)
        prompts = self.match_prompts(prompt, rows)
        with timed(timings, "text_encoder"):
            text = None if prompts is None else self.encode_prompt(prompts)
        with timed(timings, "transformer"):
            codes = self.generate_codes(
                get_task(self.task),
                text,
                sampling,
                {"image": image_tokens},
                rows=rows,
                num_samples=num_samples,
                callback=callback_on_step_end,
            )
        meshes = failures = health = None
        reports: list[dict[str, Any] | None] = []
        if output_type == "trimesh":
            meshes, failures, health = self.decode_and_check_shapes(
                codes["shape"], resolution, callback_on_extraction, timings, finish, extraction, reports
            )
        output = Omni123PipelineOutput(
            meshes=meshes,
            image_tokens=image_tokens.repeat_interleave(num_samples, dim=0),
            shape_tokens=codes["shape"],
            health=health,
            failures=failures,
            timings=timings,
            extraction=reports or None,
        )
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()
