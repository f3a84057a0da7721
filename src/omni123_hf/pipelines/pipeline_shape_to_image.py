"""A shape, with or without text, to an image of it (paper Table 4, row (text +) 3D -> image; §4.5, 3D -> posed image)."""

from typing import Any

import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.pipeline_base import (
    PAPER_GUIDANCE_SCALE,
    Omni123PipelineBase,
    StepCallback,
    timed,
)
from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput
from omni123_hf.pipelines.sampling import Drops, Schedule
from omni123_hf.pipelines.shape_input import Shape, encode_shapes
from omni123_hf.pipelines.views import view_indices


class Omni123ShapeToImagePipeline(Omni123PipelineBase):
    """Draws a shape: as an un-posed picture, or from a named view.

    Components: all of a checkpoint.

    ```python
    pipeline = Omni123ShapeToImagePipeline.from_pretrained("omni123-mini")
    pipeline("chair.glb", view="front").images[0].save("front.png")
    ```
    """

    task = "3d-to-image"

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
        shape: Shape | list[Shape],
        prompt: str | list[str] | None = None,
        view: str | list[str] | None = None,
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
        output_type: str = "trimesh",
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> Omni123PipelineOutput | tuple[Any, ...]:
        """`num_samples` images a shape.

        shape: trimesh.Trimesh, path of a mesh file, or shape tokens; meshes are centred and scaled (y up, +z front). prompt: one for
        all shapes, one for each, or none. view: a canonical view, one for all or one for each; None is un-posed.
        num_samples: how many for each input; they differ at a temperature above 0 only.
        guidance_scale: omega of `uncond + omega (cond - uncond)`; 1 is unguided; None is the checkpoint's own.
        guidance_schedule: constant or linear_decay; None is the checkpoint's own.
        guidance_drops: what the unconditional rows go without: the text, or text_and_prefix (what is given, too); without a
        prompt always the latter.
        temperature: 0 is greedy (then top_k, top_p and the seed change nothing). top_k, top_p: restrict sampling.
        seed or generator: the source of randomness, one of the two.
        output_type: "trimesh" decodes, "tokens" stops at the codes.
        callback_on_step_end(pipeline, step, total, facts) runs after every token, facts of `pipeline_base.StepCallback`; its result is not used.

        Raises `Omni123Error` for bad input.
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
            num_samples=num_samples,
            guidance_drops=guidance_drops,
        )
        timings: dict[str, float] = {}
        with timed(timings, "input_encoder"):
            given = {"shape": encode_shapes(shape, self.shape_tokenizer).tokens}
        rows = len(given["shape"])
        if view is not None:
            given["view"] = view_indices(view, rows)
        prompts = self.match_prompts(prompt, rows)
        with timed(timings, "text_encoder"):
            text = None if prompts is None else self.encode_prompt(prompts)
        with timed(timings, "transformer"):
            codes = self.generate_codes(
                get_task(self.task if view is None else "3d-to-posed-image"),
                text,
                sampling,
                given,
                rows=rows,
                num_samples=num_samples,
                callback=callback_on_step_end,
            )
        images = None
        if output_type == "trimesh":
            with timed(timings, "image_decoder"):
                images = self.decode_images(codes["image"])
        output = Omni123PipelineOutput(
            images=images,
            image_tokens=codes["image"],
            shape_tokens=given["shape"].repeat_interleave(num_samples, dim=0),
            timings=timings,
        )
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()
