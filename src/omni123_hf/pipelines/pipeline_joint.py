"""Text to an image and the 3D shape that belongs to it, in one sequence (paper §4.5, SFT row text -> image -> 3D)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.health import mesh_health
from omni123_hf.modeling.tasks import generation_plan, get_task
from omni123_hf.pipelines.pipeline_base import DEFAULT_RESOLUTION, Omni123PipelineBase, check_resolution
from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput


TASK = "text-to-image-to-3d"
GUIDANCE_SCHEDULES = ("constant", "linear_decay")
OUTPUT_TYPES = ("trimesh", "tokens")


class Omni123JointPipeline(Omni123PipelineBase):
    """Generates an image and, conditioned on the prompt and that image, a shape.

    ```python
    pipeline = Omni123JointPipeline.from_pretrained("omni123-mini")
    output = pipeline("a round wooden table with three legs")
    output.images[0].save("image.png")
    output.meshes[0].export("mesh.glb")
    ```
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        guidance_scale: float | None = None,
        guidance_schedule: Literal["constant", "linear_decay"] = "constant",
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        resolution: int = DEFAULT_RESOLUTION,
        output_type: str = "trimesh",
        callback_on_step_end: Callable[["Omni123JointPipeline", int, int, dict[str, Any]], object] | None = None,
        callback_on_extraction: Callable[[int, int], object] | None = None,
        return_dict: bool = True,
    ) -> Omni123PipelineOutput | tuple[Any, ...]:
        """One image and one mesh a prompt.

        guidance_scale: omega of `uncond + omega (cond - uncond)`; 1 is unguided; None is the checkpoint's own
        `default_guidance_scale` (the paper's is 5.0). guidance_schedule: constant or linear_decay.
        temperature: 0 is greedy (then top_k, top_p and the seed change nothing). top_k, top_p: restrict sampling.
        seed or generator: the source of randomness, one of the two.
        resolution: points on a side of the extraction grid over ±1.05.
        output_type: "trimesh" decodes, "tokens" stops at the codes.
        callback_on_step_end(pipeline, step, total, {"modality": name}) runs after every token; its result is not used.
        callback_on_extraction(done, total) counts field evaluations.

        Raises `Omni123Error` for bad input. A shape without a surface is reported in `failures`, its mesh is None.
        """
        if guidance_scale is None:
            guidance_scale = float(self.config["default_guidance_scale"])
        self._check_settings(
            guidance_scale, guidance_schedule, temperature, top_k, top_p, seed, generator, output_type
        )
        if output_type == "trimesh":
            check_resolution(resolution)
        prompts = self.check_prompts(prompt)
        if seed is not None:
            generator = torch.Generator(self._execution_device).manual_seed(seed)
        timings: dict[str, float] = {}

        with _timed(timings, "text_encoder"):
            text = self.encode_prompt(prompts)

        def report(step: int, total: int, modality: str) -> None:
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, total, {"modality": modality})

        with _timed(timings, "transformer"):
            codes = self.transformer.generate_plan(
                generation_plan(get_task(TASK), self.transformer.config),
                text_embeds=text.text_embeds,
                text_embeds_2=text.text_embeds_2,
                text_attention_mask_2=text.text_attention_mask_2,
                guidance_scale=guidance_scale,
                guidance_schedule=guidance_schedule,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                generator=generator,
                callback=report,
            )
        images = meshes = failures = health = None
        if output_type == "trimesh":
            with _timed(timings, "image_decoder"):
                images = self.decode_images(codes["image"])
            with _timed(timings, "shape_decoder"):
                meshes, failures = self.decode_shapes(codes["shape"], resolution, callback_on_extraction)
            with _timed(timings, "mesh_health"):
                health = [None if mesh is None else mesh_health(mesh).to_dict() for mesh in meshes]
        output = Omni123PipelineOutput(
            images=images,
            meshes=meshes,
            image_tokens=codes["image"],
            shape_tokens=codes["shape"],
            health=health,
            failures=failures,
            timings=timings,
        )
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    @staticmethod
    def _check_settings(
        guidance_scale: float,
        guidance_schedule: str,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        seed: int | None,
        generator: torch.Generator | None,
        output_type: str,
    ) -> None:
        for name, value in (("guidance scale", guidance_scale), ("temperature", temperature)):
            # Written so that NaN is refused, too.
            if not 0 <= value < float("inf"):
                raise Omni123Error(f"the {name} must be a finite number of at least 0; got {value}")
        if guidance_schedule not in GUIDANCE_SCHEDULES:
            raise Omni123Error(
                f"unknown guidance schedule {guidance_schedule!r}; use one of {', '.join(GUIDANCE_SCHEDULES)}"
            )
        if top_k is not None and top_k < 1:
            raise Omni123Error(f"top-k must be at least 1, or left out; got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise Omni123Error(f"top-p must lie in (0, 1], or be left out; got {top_p}")
        if seed is not None and generator is not None:
            raise Omni123Error("give a seed or a generator, not both")
        if seed is not None and not 0 <= seed < 2**63:
            raise Omni123Error(f"the seed must lie in [0, 2**63); got {seed}")
        if output_type not in OUTPUT_TYPES:
            raise Omni123Error(f"unknown output type {output_type!r}; use one of {', '.join(OUTPUT_TYPES)}")


@contextmanager
def _timed(timings: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    # Work on an accelerator is asynchronous; every part here ends by copying its result or by sampling, which waits for it.
    timings[part] = time.perf_counter() - start
