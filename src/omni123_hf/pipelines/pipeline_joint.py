"""Text to an image and the 3D shape that belongs to it, in one sequence, either first (paper Table 7, the first two rows)."""

from collections.abc import Callable
from typing import Any

import torch
import trimesh
from PIL import Image
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.postprocess import FinishSettings, with_target_faces
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.pipeline_base import (
    DEFAULT_EXTRACTION,
    DEFAULT_RESOLUTION,
    PAPER_GUIDANCE_SCALE,
    Omni123PipelineBase,
    StepCallback,
    timed,
)
from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput
from omni123_hf.pipelines.ranking import rank_candidates
from omni123_hf.pipelines.sampling import Schedule
from omni123_hf.pipelines.views import view_indices


ORDERS = {"image-first": "text-to-image-to-3d", "shape-first": "text-to-3d-to-image"}


class Omni123JointPipeline(Omni123PipelineBase):
    """Generates an image and, conditioned on the prompt and that image, a shape; or the shape first and then a view of it.

    Components: CLIP and Qwen3 text encoders with their tokenizers, the backbone, and the image and shape tokenizers.

    ```python
    pipeline = Omni123JointPipeline.from_pretrained("omni123-mini")
    output = pipeline("a round wooden table with three legs")
    output.images[0].save("image.png")
    output.meshes[0].export("mesh.glb")
    ```
    """

    task = "text-to-image-to-3d"

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
        prompt: str | list[str],
        *,
        order: str = "image-first",
        view: str | list[str] | None = None,
        num_samples: int = 1,
        rank_samples: bool = False,
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
        """`num_samples` images and meshes a prompt.

        order: "image-first" (the image is un-posed) or "shape-first". view: the view that shape-first draws.
        num_samples: how many for each input; they differ at a temperature above 0 only.
        rank_samples: fills `scores`, by which the samples of each prompt are ranked (`pipelines.ranking`); image-first only.
        guidance_scale: omega of `uncond + omega (cond - uncond)`; 1 is unguided; None is the checkpoint's own.
        guidance_schedule: constant or linear_decay; None is the checkpoint's own.
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
        )
        finish = with_target_faces(finish, target_faces)
        timings: dict[str, float] = {}
        if order not in ORDERS:
            raise Omni123Error(f"unknown order {order!r}; use one of {', '.join(ORDERS)}")
        if view is not None and order == "image-first":
            raise Omni123Error("the image that comes first is un-posed; leave out view, or use order='shape-first'")
        if rank_samples and (order != "image-first" or output_type != "trimesh"):
            raise Omni123Error(
                "rank_samples compares decoded images and meshes; it needs order='image-first' and meshes"
            )
        prompts = self.check_prompts(prompt)
        rows = len(prompts)
        given = {} if view is None else {"view": view_indices(view, rows)}
        with timed(timings, "text_encoder"):
            text = self.encode_prompt(prompts)
        with timed(timings, "transformer"):
            codes = self.generate_codes(
                get_task(ORDERS[order]),
                text,
                sampling,
                given,
                rows=rows,
                num_samples=num_samples,
                callback=callback_on_step_end,
            )
        images = meshes = failures = health = None
        reports: list[dict[str, Any] | None] = []
        if output_type == "trimesh":
            with timed(timings, "image_decoder"):
                images = self.decode_images(codes["image"])
            meshes, failures, health = self.decode_and_check_shapes(
                codes["shape"], resolution, callback_on_extraction, timings, finish, extraction, reports
            )
        scores = None
        if rank_samples and images is not None and meshes is not None:
            with timed(timings, "ranking"):
                scores = self.rank(prompts, codes, images, meshes)
        output = Omni123PipelineOutput(
            images=images,
            meshes=meshes,
            image_tokens=codes["image"],
            shape_tokens=codes["shape"],
            health=health,
            failures=failures,
            scores=scores,
            timings=timings,
            extraction=reports or None,
        )
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def rank(
        self,
        prompts: list[str],
        codes: dict[str, torch.Tensor],
        images: list[Image.Image],
        meshes: list[trimesh.Trimesh | None],
    ) -> list[float]:
        """The score of every sample among those of its prompt; one without a surface is below all that have one."""
        count = len(images) // len(prompts)
        scores: list[float] = []
        for row, prompt in enumerate(prompts):
            part = slice(row * count, (row + 1) * count)
            found = rank_candidates(
                self, prompt, codes["image"][part], codes["shape"][part], images[part], meshes[part]
            )
            scores += [
                score.score if mesh is not None else -1.0 for score, mesh in zip(found, meshes[part], strict=True)
            ]
        return scores
