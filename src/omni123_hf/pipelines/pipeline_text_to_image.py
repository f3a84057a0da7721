"""Text to an image, of no or of a named view (paper Table 4, row text -> image; §4.5, text -> posed image)."""

from typing import Any

import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.pipeline_base import (
    PAPER_GUIDANCE_SCALE,
    Omni123PipelineBase,
    StepCallback,
    timed,
)
from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput
from omni123_hf.pipelines.sampling import Schedule
from omni123_hf.pipelines.views import view_indices


class Omni123TextToImagePipeline(Omni123PipelineBase):
    """Generates an image from a prompt.

    Components: the text encoders with their tokenizers, the backbone and the image tokenizers.

    ```python
    pipeline = Omni123TextToImagePipeline.from_pretrained("omni123-mini")
    pipeline("a round wooden table with three legs").images[0].save("image.png")
    ```
    """

    task = "text-to-image"

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
        prompt: str | list[str],
        view: str | list[str] | None = None,
        *,
        num_samples: int = 1,
        guidance_scale: float | None = None,
        guidance_schedule: Schedule | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "trimesh",
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> Omni123PipelineOutput | tuple[Any, ...]:
        """`num_samples` images a prompt.

        view: a canonical view (front, back, left, right, top, bottom), one for all prompts or one for each; None is un-posed.
        num_samples: how many for each input; they differ at a temperature above 0 only.
        guidance_scale: omega of `uncond + omega (cond - uncond)`; 1 is unguided; None is the checkpoint's own.
        guidance_schedule: constant or linear_decay; None is the checkpoint's own.
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
        )
        timings: dict[str, float] = {}
        prompts = self.check_prompts(prompt)
        rows = len(prompts)
        given = {} if view is None else {"view": view_indices(view, rows)}
        with timed(timings, "text_encoder"):
            text = self.encode_prompt(prompts)
        with timed(timings, "transformer"):
            codes = self.generate_codes(
                get_task(self.task if view is None else "text-to-posed-image"),
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
