"""An image and the view it shows to an image of another view (paper §4.5, image -> posed image)."""

from typing import Any

import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.image_input import Picture
from omni123_hf.pipelines.pipeline_base import (
    PAPER_GUIDANCE_SCALE,
    Omni123PipelineBase,
    StepCallback,
    timed,
)
from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput
from omni123_hf.pipelines.sampling import Drops, Schedule
from omni123_hf.pipelines.views import view_indices


class Omni123NovelViewPipeline(Omni123PipelineBase):
    """Draws an object from another side, given a picture of one side.

    Components: all of a checkpoint but the shape tokenizer.

    ```python
    pipeline = Omni123NovelViewPipeline.from_pretrained("omni123-mini")
    pipeline("front.png", source_view="front", view="left").images[0].save("left.png")
    ```
    """

    task = "image-to-posed-image"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: CLIPTextModel,
        tokenizer_2: PreTrainedTokenizerFast,
        text_encoder_2: Qwen3Model,
        transformer: Omni123ForConditionalGeneration,
        image_vae: Omni123ImageVAE,
        image_tokenizer: Omni123ImageTokenizer,
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
        )

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | list[Picture],
        source_view: str | list[str],
        view: str | list[str],
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
        output_type: str = "trimesh",
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> Omni123PipelineOutput | tuple[Any, ...]:
        """`num_samples` images an image.

        image: PIL image, path or array. source_view: the canonical view that it shows. view: the one to draw. Both are one for all
        images or one for each: front, back, left, right, top, bottom. prompt: one for all images, one for each, or none.
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
            given = {"source_image": self.encode_images(image)}
        rows = len(given["source_image"])
        given["source_view"], given["view"] = view_indices(source_view, rows), view_indices(view, rows)
        prompts = self.match_prompts(prompt, rows)
        with timed(timings, "text_encoder"):
            text = None if prompts is None else self.encode_prompt(prompts)
        with timed(timings, "transformer"):
            codes = self.generate_codes(
                get_task(self.task),
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
        output = Omni123PipelineOutput(images=images, image_tokens=codes["image"], timings=timings)
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()
