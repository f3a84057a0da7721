"""The steps of §3.5 after the prompts: what each takes from an item's folder and leaves there.

A step runs again only when something that decides its result has changed (`identity`), and then all steps after it
do. It writes its files whole or not at all and raises `RejectedError` for an item that is to be left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import trimesh
from PIL import Image

from omni123_hf.data.captioning.alignment import AlignmentFilter
from omni123_hf.data.captioning.cache import write_json_atomic
from omni123_hf.data.captioning.conversation import CaptionRequest
from omni123_hf.data.captioning.given import GivenCaptioner
from omni123_hf.data.captioning.judge import Judge
from omni123_hf.data.captioning.result import WORD_LIMITS, CaptionResult, Metadata, Provenance
from omni123_hf.data.prepared_views import render_views
from omni123_hf.data.records import CAPTION_LEVELS
from omni123_hf.data.synthesis.assets import read_mesh
from omni123_hf.data.synthesis.background import BackgroundRemover, MaskRules, on_white
from omni123_hf.data.synthesis.prompts import Prompt
from omni123_hf.data.synthesis.quality import AXES, QualityRater, view_images
from omni123_hf.errors import RejectedError
from omni123_hf.geometry.normalization import normalize_mesh


VIEWPOINT = (
    "{prompt}, the whole object seen from the front, slightly from above and from one side, soft even light, "
    "plain white background"
)
"""Viewpoint and light of step 2; a generator that was trained on bare captions takes "{prompt}"."""

# Between the longest medium caption (25 words) and the shortest long one (40).
MEDIUM_TO_LONG = 32

TextToImage = Callable[[Sequence[str], int], list[Image.Image]]
"""(prompts, seed) to one image each."""

ImageTo3D = Callable[[Sequence[Image.Image], Sequence[str], int], list[trimesh.Trimesh | None]]
"""(images on white, prompts, seed) to one mesh each, y up and +z to the front; None where no surface came out."""

Captioner = Callable[[CaptionRequest], CaptionResult]


@dataclass(frozen=True)
class Item:
    """One prompt on its way. seed: of its generators, by its text and the run's seed only."""

    prompt: Prompt
    seed: int
    folder: Path

    @property
    def id(self) -> str:
        """`synthesis/{prompt id}`."""
        return f"synthesis/{self.prompt.id}"

    @property
    def image(self) -> Path:
        return self.folder / "image.png"

    @property
    def cutout(self) -> Path:
        return self.folder / "cutout.png"

    @property
    def mesh(self) -> Path:
        return self.folder / "mesh.ply"

    @property
    def captions(self) -> Path:
        return self.folder / "captions.json"


class Step(Protocol):
    """One step. `identity` is plain JSON and names everything that decides the result, except the item.

    prompt_fields: fields of the item's prompt that decide the result too, beside its text and seed.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def prompt_fields(self) -> Sequence[str]: ...
    def run(self, item: Item) -> dict[str, Any]:
        """Do the work; returns facts (plain JSON) for the item's state."""
        ...


@dataclass(frozen=True)
class TextToImageStep:
    """Step 2. generator_id names the model and its revision. template: what is asked, with `{prompt}` in it."""

    generator: TextToImage
    generator_id: str
    template: str = VIEWPOINT
    name: str = "text_to_image"
    prompt_fields: tuple[str, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"generator": self.generator_id, "template": self.template}

    def run(self, item: Item) -> dict[str, Any]:
        """Writes the image. `image_blank` when it is of one colour."""
        text = self.template.format(prompt=item.prompt.text)
        (image,) = self.generator([text], item.seed)
        picture = image.convert("RGB")
        if len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) == 1:
            raise RejectedError("image_blank", "the generated image is of one colour")
        _save_png(picture, item.image)
        return {"text": text, "size": list(image.size)}


@dataclass(frozen=True)
class BackgroundStep:
    """Step 3. remover_id names the method. judge: a model that looks at the cut-out, as in the paper; or None."""

    remover: BackgroundRemover
    remover_id: str
    rules: MaskRules = field(default_factory=MaskRules)
    judge: Judge | None = None
    name: str = "background"
    prompt_fields: tuple[str, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        judge = self.judge.identity if self.judge is not None else None
        return {"remover": self.remover_id, "rules": vars(self.rules), "judge": judge}

    def run(self, item: Item) -> dict[str, Any]:
        """Writes the object on white. Reasons: those of `MaskRules.check`, and `mask_poor` by the judge."""
        with Image.open(item.image) as image:
            cutout = self.remover(image)
            figures = self.rules.check(cutout)
            picture = on_white(image, cutout.mask)
        if self.judge is not None:
            ratings, reason = self.judge.rate(
                "mask", item.id, ["cutout"], {"object": picture}, wanted=repr(item.prompt.text)
            )
            if not ratings["cutout"]:
                raise RejectedError("mask_poor", reason)
        _save_png(picture, item.cutout)
        return figures


@dataclass(frozen=True)
class ImageTo3DStep:
    """Step 4. generator_id names the model and its revision."""

    generator: ImageTo3D
    generator_id: str
    name: str = "image_to_3d"
    prompt_fields: tuple[str, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"generator": self.generator_id}

    def run(self, item: Item) -> dict[str, Any]:
        """Writes the mesh. `no_surface` when there is none."""
        with Image.open(item.cutout) as image:
            (mesh,) = self.generator([image.convert("RGB")], [item.prompt.text], item.seed)
        if mesh is None or not len(mesh.faces):
            raise RejectedError("no_surface", "the generator gave no surface for this image")
        temporary = item.mesh.with_name(f".{os.getpid()}.ply")
        mesh.export(temporary)  # PLY keeps vertices shared and colours by face; GLB would split them
        os.replace(temporary, item.mesh)
        return {"faces": len(mesh.faces), "vertices": len(mesh.vertices)}


@dataclass(frozen=True)
class QualityStep:
    """Step 5. view_size: pixels of the renders that are rated."""

    rater: QualityRater
    view_size: int = 256
    name: str = "quality"
    prompt_fields: tuple[str, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"rater": dict(self.rater.identity), "view_size": self.view_size}

    def run(self, item: Item) -> dict[str, Any]:
        """Rates the mesh; the reason is that of the first axis of `quality.AXES` that is not high."""
        mesh, views = rendered(item, self.view_size)
        ratings = self.rater.rate(mesh, views, item.prompt.text)
        for axis, reason in AXES.items():
            if not ratings[axis].is_high:
                told = "; ".join(f"{name} {rating.score:.3f}" for name, rating in ratings.items())
                raise RejectedError(reason, f"{told} ({ratings[axis].note})")
        return {axis: rating.score for axis, rating in ratings.items()}


@dataclass(frozen=True)
class RecaptionStep:
    """Multi-granularity re-captioning, of the mesh's renders and not of the prompt.

    captioner: `ConversationCaptioner.caption` or `CachedCaptioner.caption`; without a model use `PromptCaptionStep`.
    alignment: drops captions that do not fit the renders.
    """

    captioner: Captioner
    captioner_id: str
    alignment: AlignmentFilter | None = None
    alignment_id: str = ""
    view_size: int = 256
    name: str = "recaption"
    prompt_fields: tuple[str, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        threshold = self.alignment.threshold if self.alignment is not None else None
        return {
            "captioner": self.captioner_id, "alignment": self.alignment_id, "threshold": threshold,
            "view_size": self.view_size,
        }  # fmt: skip

    def run(self, item: Item) -> dict[str, Any]:
        """Writes the captions. Reasons: those of the captioner, and `caption_misaligned`."""
        _, views = rendered(item, self.view_size)
        images = view_images(views)
        request = CaptionRequest(item.id, images, Metadata(item.prompt.text))
        result = self.captioner(request)
        if self.alignment is not None:
            result = self.alignment.apply(result, images)
        write_json_atomic(item.captions, result.to_dict())
        return {level: len(texts) for level, texts in result.captions.items()}


@dataclass(frozen=True)
class PromptCaptionStep:
    """Re-captioning where there is no model to look at the result: the words that the object was made from.

    A prompt that brings captions at three lengths, as those of our generator do, has them; any other prompt is the one
    caption, at the level that its length comes nearest to. Nothing is added that nobody has seen. alignment: drops
    captions that do not fit the renders.
    """

    alignment: GivenCaptioner | None = None
    name: str = "recaption"
    prompt_fields: tuple[str, ...] = ("category", "extra")

    @property
    def identity(self) -> Mapping[str, Any]:
        alignment = {} if self.alignment is None else {"alignment": self.alignment.identity}
        return {"captioner": "prompt-1"} | alignment

    def run(self, item: Item) -> dict[str, Any]:
        """Writes the captions. `caption_misaligned` where none fits the renders."""
        text, words = item.prompt.text, len(item.prompt.text.split())
        level = "short" if words <= WORD_LIMITS["short"][1] else "medium" if words <= MEDIUM_TO_LONG else "long"
        captions = item.prompt.extra.get("captions") or {name: [text] * (name == level) for name in CAPTION_LEVELS}
        scores: dict[str, list[float]] = {}
        if self.alignment is not None:
            _, views = rendered(item, self.alignment.view_size)
            kept = self.alignment.caption(CaptionRequest(item.id, view_images(views), given=captions))
            captions, scores = kept.captions, kept.alignment
        category = item.prompt.category
        provenance = Provenance("prompt", "none", "prompt-1")
        result = CaptionResult(item.id, captions, category, category or text, provenance, alignment=scores)
        write_json_atomic(item.captions, result.to_dict())
        return {name: len(texts) for name, texts in captions.items()}


def rendered(item: Item, size: int) -> tuple[trimesh.Trimesh, np.ndarray]:
    """The item's mesh, normalised, and its (7,size,size,4) views."""
    mesh, _ = normalize_mesh(read_mesh(str(item.mesh)))
    return mesh, render_views(mesh, size)


def read_captions(item: Item) -> CaptionResult:
    """What the last step wrote."""
    return CaptionResult.from_dict(json.loads(item.captions.read_text(encoding="utf-8")))


def _save_png(image: Image.Image, path: Path) -> None:
    temporary = path.with_name(f".{os.getpid()}.png")
    image.save(temporary)
    os.replace(temporary, path)
