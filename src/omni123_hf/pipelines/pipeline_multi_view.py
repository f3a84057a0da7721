"""Several posed images and a shape of one object, in one sequence (paper Table 7, the last three rows)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast, Qwen3Model

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.postprocess import FinishSettings, with_target_faces
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.tasks import Task, get_task
from omni123_hf.pipelines.image_input import Picture
from omni123_hf.pipelines.pipeline_base import (
    DEFAULT_EXTRACTION,
    DEFAULT_RESOLUTION,
    PAPER_GUIDANCE_SCALE,
    Omni123PipelineBase,
    StepCallback,
    timed,
)
from omni123_hf.pipelines.pipeline_output import Omni123MultiViewOutput
from omni123_hf.pipelines.sampling import Drops, Schedule
from omni123_hf.pipelines.shape_input import Shape, encode_shapes
from omni123_hf.pipelines.views import check_distinct, view_index


class Omni123MultiViewPipeline(Omni123PipelineBase):
    """Text to posed images, the shape they show and more images of it; posed images to a shape; a shape to posed images.

    Components: all of a checkpoint.

    ```python
    pipeline = Omni123MultiViewPipeline.from_pretrained("omni123-mini")
    output = pipeline("a red chair", views=["front", "left"], extra_views=["back"])
    output.meshes[0].export("mesh.glb"), dict(zip(output.views[0], output.images[0]))
    ```
    """

    task = "text-to-images-to-3d-to-images"

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
        prompt: str | list[str] | None = None,
        images: list[Picture] | list[list[Picture]] | None = None,
        shape: Shape | list[Shape] | None = None,
        *,
        views: list[str] | tuple[str, ...] = ("front", "back", "left", "right"),
        extra_views: list[str] | tuple[str, ...] = (),
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
    ) -> Omni123MultiViewOutput | tuple[Any, ...]:
        """`num_samples` results an input.

        prompt alone: images of `views`, then the shape, then images of `extra_views` (Text -> Img x N -> 3D -> Img x M).
        images (of one object, or a list of them a object) with the `views` they show: the shape. shape: images of `views`. Both take
        a prompt, too. views, extra_views: canonical views, each once, the same for all objects.
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
        names = check_distinct([*views, *extra_views])[: len(views)]
        task, given, rows = self.prepare_task(prompt, images, shape, names, list(extra_views), timings)
        prompts = self.match_prompts(prompt, rows)
        with timed(timings, "text_encoder"):
            text = None if prompts is None else self.encode_prompt(prompts)
        with timed(timings, "transformer"):
            codes = self.generate_codes(
                task, text, sampling, given, rows=rows, num_samples=num_samples, callback=callback_on_step_end
            )
        drawn = [segment.name for segment in task.targets if segment.kind == "image"]
        shown = [view for number, view in enumerate([*names, *extra_views], 1) if f"image_{number}" in drawn]
        pictures = meshes = failures = health = None
        reports: list[dict[str, Any] | None] = []
        tokens = torch.stack([codes[name] for name in drawn], dim=1) if drawn else None
        if output_type == "trimesh":
            if tokens is not None:
                with timed(timings, "image_decoder"):
                    flat = self.decode_images(tokens.flatten(0, 1))
                pictures = [flat[start : start + len(drawn)] for start in range(0, len(flat), len(drawn))]
            if "shape" in codes:
                meshes, failures, health = self.decode_and_check_shapes(
                    codes["shape"], resolution, callback_on_extraction, timings, finish, extraction, reports
                )
        output = Omni123MultiViewOutput(
            images=pictures,
            views=[shown] * (rows * num_samples) if drawn else None,
            meshes=meshes,
            image_tokens=tokens,
            shape_tokens=codes.get("shape"),
            health=health,
            failures=failures,
            timings=timings,
            extraction=reports or None,
        )
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def prepare_task(
        self,
        prompt: str | list[str] | None,
        images: list[Picture] | list[list[Picture]] | None,
        shape: Shape | list[Shape] | None,
        views: list[str],
        extra_views: list[str],
        timings: dict[str, float],
    ) -> tuple[Task, dict[str, Any], int]:
        """The row of the task table that fits the inputs, the codes and views that are given, and the number of objects."""
        if images is not None and shape is not None:
            raise Omni123Error("give images or a shape, not both")
        if extra_views and (images is not None or shape is not None):
            raise Omni123Error(
                "extra_views follow a shape that is made from text; with images or a shape give views only"
            )
        order = [*views, *extra_views]
        given: dict[str, Any] = {f"view_{number}": view_index(name) for number, name in enumerate(order, 1)}
        if images is not None:
            groups: Any = images if images and isinstance(images[0], list | tuple) else [images]
            if not images or any(len(group) != len(views) for group in groups):
                raise Omni123Error(
                    f"give one image for each of the {len(views)} views ({', '.join(views)}) of an object"
                )
            with timed(timings, "input_encoder"):
                tokens = self.encode_images([picture for group in groups for picture in group])
            tokens = tokens.unflatten(0, (len(groups), len(views)))
            given |= {f"image_{number}": tokens[:, number - 1] for number in range(1, len(views) + 1)}
            return get_task("images-to-3d", num_images=len(views)), given, len(groups)
        if shape is not None:
            with timed(timings, "input_encoder"):
                given["shape"] = encode_shapes(shape, self.shape_tokenizer).tokens
            return get_task("3d-to-images", num_images=len(views)), given, len(given["shape"])
        if prompt is None:
            raise Omni123Error("give a prompt, images or a shape")
        task = get_task(self.task, len(views), max(1, len(extra_views)))
        if not extra_views:
            # The row without its last part: the sequence simply ends with the shape.
            task = replace(task, segments=task.segments[: 2 * len(views) + 1])
        return task, given, 1 if isinstance(prompt, str) else len(prompt)
