"""Our own checkpoints as the generators of data synthesis (`data.synthesis.steps`): text to image, and image to 3D."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import trimesh
from PIL import Image

from omni123_hf.data.views import pixels_from_views
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.modeling.tasks import get_task
from omni123_hf.pipelines.pipeline_joint import Omni123JointPipeline


# The mini draws usable images by greedy decoding; a little temperature gives the variety that seeds are for.
TEMPERATURE = 0.7


class Omni123TextToImage:
    """(prompts, seed) to images, by the task text-to-image. A mini checkpoint takes bare prompts (template "{prompt}")."""

    def __init__(self, pipeline: Omni123JointPipeline, temperature: float = TEMPERATURE):
        self.pipeline, self.temperature = pipeline, temperature

    @property
    def generator_id(self) -> str:
        """Revision of the checkpoint and settings."""
        return f"omni123 {self.pipeline.revision} text-to-image temperature {self.temperature}"

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seed: int) -> list[Image.Image]:
        """One image a prompt; one that the text encoders cannot read raises `RejectedError` `prompt_unusable`."""
        codes = _generate(self.pipeline, "text-to-image", list(prompts), {}, self.temperature, seed)
        return self.pipeline.decode_images(codes["image"])


class Omni123ImageTo3D:
    """(images, prompts, seed) to meshes, by the task image-to-3d."""

    def __init__(self, pipeline: Omni123JointPipeline, temperature: float = 0.0, resolution: int = 96):
        self.pipeline, self.temperature, self.resolution = pipeline, temperature, resolution

    @property
    def generator_id(self) -> str:
        """Revision of the checkpoint and settings."""
        settings = f"temperature {self.temperature} resolution {self.resolution}"
        return f"omni123 {self.pipeline.revision} image-to-3d {settings}"

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Image.Image], prompts: Sequence[str], seed: int
    ) -> list[trimesh.Trimesh | None]:
        """One mesh an image (an object on white); None where there is no surface."""
        side = self.pipeline.image_vae.config.image_size
        views = np.stack([np.asarray(image.convert("RGB").resize((side, side))) for image in images])
        pixels = pixels_from_views(views).to(self.pipeline.device)
        tokens = self.pipeline.image_tokenizer.encode(self.pipeline.image_vae.encode(pixels))
        codes = _generate(self.pipeline, "image-to-3d", list(prompts), {"image": tokens}, self.temperature, seed)
        meshes, _ = self.pipeline.decode_shapes(codes["shape"], self.resolution)
        return meshes


def _generate(
    pipeline: Omni123JointPipeline,
    task: str,
    prompts: list[str],
    given: dict[str, torch.Tensor],
    temperature: float,
    seed: int,
) -> dict[str, torch.Tensor]:
    try:
        text = pipeline.encode_prompt(pipeline.check_prompts(prompts))
    except Omni123Error as error:  # longer than the text encoders read, or not text
        raise RejectedError("prompt_unusable", str(error)) from error
    sampling = pipeline.prepare_sampling(temperature=temperature, seed=seed)
    return pipeline.generate_codes(get_task(task), text, sampling, given, rows=len(prompts))
