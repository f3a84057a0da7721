"""Real, tiny stand-ins for generators: boxes whose proportions depend on the seed."""

import numpy as np
import trimesh
from PIL import Image

from omni123_hf.data.synthesis.background import BorderFlood
from omni123_hf.data.synthesis.quality import MeasuredQuality
from omni123_hf.data.synthesis.steps import (
    BackgroundStep,
    ImageTo3DStep,
    PromptCaptionStep,
    QualityStep,
    RecaptionStep,
    TextToImageStep,
)


class Painter:
    """Text to image: a coloured rectangle on grey. Counts its calls; `breaks`: word of a prompt to error."""

    def __init__(self, breaks=None):
        self.calls, self.breaks = [], breaks or {}

    def __call__(self, prompts, seed):
        self.calls += prompts
        for word, error in self.breaks.items():
            if word in prompts[0]:
                raise error
        pixels = np.full((48, 48, 3), 230, dtype=np.uint8)
        width = 6 + seed % 10
        pixels[10:38, 24 - width : 24 + width] = (180, 40, 30)
        if "cut off" in prompts[0]:
            pixels[:, :10] = (180, 40, 30)
        return [Image.fromarray(pixels)]


class Sculptor:
    """Image to 3D: a box as wide as the object in the image."""

    def __init__(self, floater: bool = False):
        self.calls, self.floater = 0, floater

    def __call__(self, images, prompts, seed):
        self.calls += 1
        mask = np.asarray(images[0]).min(axis=2) < 200
        box = trimesh.creation.box(extents=(mask.sum(axis=1).max() / 28, 1.0, 0.5)).subdivide()
        if "nothing" in prompts[0]:
            return [None]
        if self.floater or "floating" in prompts[0]:
            box = trimesh.util.concatenate(
                [box, trimesh.creation.box(extents=(0.5,) * 3).apply_translation((0, 2, 0))]
            )
        box.visual.face_colors = np.tile((180, 40, 30, 255), (len(box.faces), 1))
        return [box]


def steps(painter=None, sculptor=None, captioner=None, rater=None):
    """All five steps with stand-ins."""
    return [
        TextToImageStep(painter or Painter(), "painter", template="{prompt}"),
        BackgroundStep(BorderFlood(), "border-flood"),
        ImageTo3DStep(sculptor or Sculptor(), "sculptor"),
        QualityStep(rater or MeasuredQuality(surface_clarity=0.0), view_size=48),
        PromptCaptionStep() if captioner is None else RecaptionStep(captioner, "captioner", view_size=32),
    ]
