"""What every pipeline of a task keeps to, and what each one does of its own, on tiny random components."""

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from omni123_hf import pipelines
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.tasks import generation_plan, get_task
from omni123_hf.pipelines import (
    Omni123EditPipeline,
    Omni123ImageTo3DPipeline,
    Omni123JointPipeline,
    Omni123MultiViewPipeline,
    Omni123NovelViewPipeline,
    Omni123ShapeToImagePipeline,
    Omni123TextTo3DPipeline,
    Omni123TextToImagePipeline,
)


PROMPT = "a tall red vase"


def picture(seed: int = 0, size=(20, 12), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)).convert(mode)


def box(x: float = 1.0) -> trimesh.Trimesh:
    return trimesh.creation.box((x, 2.0, 0.5))


CALLS = {
    Omni123TextToImagePipeline: ((PROMPT,), {}),
    Omni123TextTo3DPipeline: ((PROMPT,), {}),
    Omni123JointPipeline: ((PROMPT,), {}),
    Omni123ImageTo3DPipeline: ((picture(), PROMPT), {}),
    Omni123ShapeToImagePipeline: ((box(), PROMPT), {}),
    Omni123NovelViewPipeline: ((picture(), "front", "left", PROMPT), {}),
    Omni123MultiViewPipeline: ((PROMPT,), {"views": ["front", "left"], "extra_views": ["back"]}),
    Omni123EditPipeline: ((box(), "make it taller"), {}),
}
CLASSES = list(CALLS)


@pytest.fixture(scope="module")
def made(tiny_pipeline):
    """Every pipeline on the components of one checkpoint."""
    return {cls: cls.from_pipe(tiny_pipeline) for cls in CLASSES}


def call(pipeline, **changes):
    args, kwargs = CALLS[type(pipeline)]
    return pipeline(*args, **{**kwargs, **changes})


def codes(output) -> list[torch.Tensor]:
    return [part for part in (output.get("image_tokens"), output.get("shape_tokens")) if part is not None]


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(codes(one), codes(other), strict=True))


@pytest.mark.parametrize("cls", CLASSES)
def test_same_seed_same_tokens_and_samples_differ(made, cls):
    settings = {"temperature": 1.0, "num_samples": 3, "output_type": "tokens"}
    one, same, other = (call(made[cls], seed=seed, **settings) for seed in (1, 1, 2))
    assert equal(one, same) and not equal(one, other)
    drawn = one.image_tokens if cls in (Omni123ShapeToImagePipeline,) else codes(one)[-1]
    assert len(drawn) == 3 and not torch.equal(drawn[0], drawn[1])
    generated = call(made[cls], generator=torch.Generator().manual_seed(1), **settings)
    assert equal(one, generated)


@pytest.mark.parametrize("cls", CLASSES)
def test_shared_components_and_loading_give_the_same_tokens(made, cls, tiny_pipeline, tiny_pipeline_folder):
    assert made[cls].transformer is tiny_pipeline.transformer
    loaded = cls.from_pretrained(tiny_pipeline_folder)
    assert equal(call(loaded, output_type="tokens"), call(made[cls], output_type="tokens"))
    unused = {"shape_tokenizer", "image_vae", "image_tokenizer"} - set(loaded.components)
    assert all(not hasattr(loaded, name) for name in unused)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_saved_pipeline_comes_back_as_itself(made, cls, tmp_path):
    made[cls].save_pretrained(tmp_path / "saved")
    again = pipelines.load_pipeline(str(tmp_path / "saved"))
    assert type(again) is cls
    assert equal(call(again, output_type="tokens"), call(made[cls], output_type="tokens"))


@pytest.mark.parametrize("cls", CLASSES)
def test_a_tuple_a_callback_and_bad_settings(made, cls):
    steps = []
    result = call(
        made[cls],
        output_type="tokens",
        return_dict=False,
        callback_on_step_end=lambda pipeline, step, total, facts: steps.append((step, total, facts["modality"])),
    )
    assert isinstance(result, tuple)
    assert steps[0][0] == 1 and steps[-1][0] == steps[-1][1] == len(steps)
    for settings, message in (
        ({"temperature": float("nan")}, "temperature"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": 10**6}, "num_samples"),
        ({"top_p": 1.5}, "top-p"),
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
        ({"output_type": "latent"}, "output type"),
        ({"guidance_schedule": "cosine"}, "guidance schedule"),
    ):
        with pytest.raises(Omni123Error, match=message):
            call(made[cls], **settings)


def test_images_to_shapes_in_batches_with_and_without_text(made):
    pipeline = made[Omni123ImageTo3DPipeline]
    images = [picture(0), picture(1, (8, 8), "L")]
    both = pipeline(images, PROMPT, output_type="tokens")
    single = [pipeline(image, PROMPT, output_type="tokens").shape_tokens[0] for image in images]
    assert torch.equal(both.shape_tokens, torch.stack(single))
    bare = pipeline(images, output_type="tokens")
    assert torch.equal(bare.image_tokens, both.image_tokens)
    own = pipeline(images, [PROMPT, "a blue car"], output_type="tokens")
    assert torch.equal(own.shape_tokens[0], both.shape_tokens[0])
    with pytest.raises(Omni123Error, match="3 prompts for 2 inputs"):
        pipeline(images, [PROMPT] * 3)
    output = pipeline(images[0], resolution=16)
    assert len(output.meshes) == 1 and (output.meshes[0] is None) == (output.failures[0] is not None)


def test_without_a_prompt_the_model_sees_the_image_alone(made):
    """Guidance then drops the image: omega times the image's logits against none at all."""
    pipeline = made[Omni123ImageTo3DPipeline]
    tokens = pipeline.encode_images(picture())
    plan = generation_plan(get_task("image-to-3d"), pipeline.transformer.config, {"image": tokens})
    expected = pipeline.transformer.generate_plan(
        plan, batch_size=1, guidance_scale=2.0, guidance_drops="text_and_prefix"
    )
    found = pipeline(picture(), guidance_scale=2.0, output_type="tokens")
    assert torch.equal(found.shape_tokens, expected["shape"])


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_is_read(made, mode):
    pipeline = made[Omni123ImageTo3DPipeline]
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16))
    elif mode == "LA":
        image = picture(mode="RGBA").convert("LA")
    else:
        image = picture(mode=mode)
    assert pipeline.encode_images(image).shape == (1, pipeline.transformer.config.num_image_tokens)


def test_transparent_parts_are_white_and_paths_and_arrays_work(made, tmp_path):
    pipeline = made[Omni123ImageTo3DPipeline]
    solid = np.full((16, 16, 3), 255, np.uint8)
    solid[4:12, 4:12] = (200, 30, 30)
    alpha = np.zeros((16, 16, 1), np.uint8)
    alpha[4:12, 4:12] = 255
    hidden = np.where(alpha > 0, solid, 7).astype(np.uint8)
    clear = Image.fromarray(np.concatenate([hidden, alpha], axis=-1))
    clear.save(tmp_path / "clear.png")
    wanted = pipeline.encode_images(solid)
    for form in (clear, tmp_path / "clear.png", str(tmp_path / "clear.png"), Image.fromarray(solid)):
        assert torch.equal(pipeline.encode_images(form), wanted)


@pytest.mark.parametrize(
    "image, message",
    [
        ("absent.png", "does not exist"),
        ([], "empty"),
        (3, "must be a PIL image"),
        (np.zeros((4, 4, 7), np.uint8), "image array is"),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "transparent"),
        (Image.new("1", (20_000, 20_000)), "20000 x 20000"),
    ],
)
def test_images_that_cannot_be_used_are_named(made, image, message):
    with pytest.raises(Omni123Error, match=message):
        made[Omni123ImageTo3DPipeline](image)


def test_a_corrupt_file_is_named(made, tmp_path):
    picture().save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("cut.png", "text.png"):
        with pytest.raises(Omni123Error, match=name):
            made[Omni123NovelViewPipeline](tmp_path / name, "front", "left")


def test_shapes_come_as_meshes_files_or_tokens(made, tmp_path):
    pipeline = made[Omni123ShapeToImagePipeline]
    box().export(tmp_path / "box.glb")
    from_mesh = pipeline(box(), output_type="tokens")
    from_file = pipeline(tmp_path / "box.glb", output_type="tokens")
    from_tokens = pipeline(from_mesh.shape_tokens, output_type="tokens")
    assert equal(from_mesh, from_file) and equal(from_mesh, from_tokens)
    far = box()
    far.apply_scale(1e3)
    far.apply_translation([1e6, -1e6, 1e6])
    # Where a mesh stands and how large it is do not matter.
    assert torch.equal(pipeline(far, output_type="tokens").shape_tokens, from_mesh.shape_tokens)
    views = pipeline([box(), box(0.3)], view=["front", "top"], output_type="tokens")
    assert torch.equal(views.image_tokens[0], pipeline(box(), view="front", output_type="tokens").image_tokens[0])


def nan_box() -> trimesh.Trimesh:
    mesh = box()
    vertices = np.array(mesh.vertices)
    vertices[0] = np.nan
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


@pytest.mark.parametrize(
    "shape, message",
    [
        (trimesh.Trimesh(), "no faces"),
        (nan_box(), "not finite"),
        (trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False), "no extent"),
        (trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False), "no surface area"),
        ("absent.glb", "does not exist"),
        (trimesh.Scene(box()), "trimesh.Scene"),
        ([], "empty"),
        (7, "must be a trimesh.Trimesh"),
        (torch.zeros(3, dtype=torch.long), "shape tokens must be"),
        (torch.full((8,), 99), "reach from 99 to 99"),
        (torch.zeros(8), "shape tokens must be"),
    ],
)
def test_shapes_that_cannot_be_used_are_named(made, shape, message):
    with pytest.raises(Omni123Error, match=message):
        made[Omni123EditPipeline](shape, "add a handle")


def test_views_by_name(made):
    pipeline = made[Omni123NovelViewPipeline]
    left = pipeline(picture(), "front", "left", output_type="tokens")
    assert not torch.equal(left.image_tokens, pipeline(picture(), "back", "left", output_type="tokens").image_tokens)
    with pytest.raises(Omni123Error, match="no view 'below'; use one of front"):
        pipeline(picture(), "front", "below")
    with pytest.raises(Omni123Error, match="2 views for 1 inputs"):
        pipeline(picture(), ["front", "left"], "top")
    posed = made[Omni123TextToImagePipeline](PROMPT, view="top", output_type="tokens")
    assert posed.image_tokens.shape == (1, pipeline.transformer.config.num_image_tokens)
    joint = made[Omni123JointPipeline]
    assert joint(PROMPT, order="shape-first", view="top", output_type="tokens").shape_tokens.shape[0] == 1
    with pytest.raises(Omni123Error, match="un-posed"):
        joint(PROMPT, view="top")
    with pytest.raises(Omni123Error, match="unknown order"):
        joint(PROMPT, order="text-first")


def test_multi_view_runs_all_three_ways(made):
    pipeline = made[Omni123MultiViewPipeline]
    full = pipeline(PROMPT, views=["front", "left"], extra_views=["back"], resolution=16)
    assert full.views == [["front", "left", "back"]] and [len(group) for group in full.images] == [3]
    assert full.image_tokens.shape[:2] == (1, 3) and len(full.meshes) == 1
    short = pipeline(PROMPT, views=["front", "left"], output_type="tokens")
    # The chain is causal: what comes after the shape changes nothing before it.
    assert torch.equal(short.shape_tokens, full.shape_tokens)
    assert torch.equal(short.image_tokens, full.image_tokens[:, :2])
    shape = pipeline(images=[picture(0), picture(1)], views=["front", "left"], output_type="tokens")
    assert shape.images is None and shape.image_tokens is None and shape.shape_tokens.shape[0] == 1
    groups = [[picture(0), picture(1)], [picture(2), picture(3)]]
    both = pipeline(images=groups, views=["front", "left"], output_type="tokens")
    assert torch.equal(both.shape_tokens[0], shape.shape_tokens[0])
    drawn = pipeline(shape=box(), views=["top", "bottom", "left"], output_type="tokens")
    assert drawn.views == [["top", "bottom", "left"]] and drawn.meshes is None
    for kwargs, message in (
        ({}, "give a prompt, images or a shape"),
        ({"images": [picture()], "shape": box(), "views": ["front"]}, "not both"),
        ({"images": [picture()], "views": ["front", "left"]}, "one image for each of the 2 views"),
        ({"shape": box(), "views": ["front", "front"]}, "each once"),
        ({"shape": box(), "views": []}, "at least 1"),
        ({"shape": box(), "views": ["front"], "extra_views": ["top"]}, "extra_views"),
    ):
        with pytest.raises(Omni123Error, match=message):
            pipeline(**kwargs)


def test_an_edit_reports_what_changed(made):
    pipeline = made[Omni123EditPipeline]
    output = pipeline([box(), box(0.3)], "make it taller", resolution=16)
    config = pipeline.transformer.config
    assert output.shape_tokens.shape == output.source_tokens.shape == (2, config.num_shape_tokens)
    assert output.changed == [True, True]
    assert set(output.locality[0]) >= {"changed_volume_share", "regions", "chamfer_outside", "is_unchanged"}
    assert output.transforms[0].scale == pytest.approx(1.92 / 2.0)
    again = pipeline(output.source_tokens, "make it taller", output_type="tokens")
    assert torch.equal(again.shape_tokens, output.shape_tokens) and again.transforms == [None, None]
    with pytest.raises(Omni123Error, match="prompt is empty"):
        pipeline(box(), " ")


def test_an_edit_keeps_what_it_is_told_to_keep(made):
    pipeline = made[Omni123EditPipeline]
    config, own = pipeline.transformer.config, call(pipeline)
    assert config.edit_source_bias == 0.0 and equal(own, call(pipeline, source_bias=0.0))
    still = call(pipeline, source_bias=1e4)
    assert still.changed == [False] and torch.equal(still.shape_tokens, still.source_tokens)
    try:
        config.edit_source_bias = 1e4
        assert equal(call(pipeline), still) and equal(call(pipeline, source_bias=0.0), own)
    finally:
        config.edit_source_bias = 0.0
    try:
        config.edit_guidance_scale = 1.0
        assert equal(call(pipeline), call(pipeline, guidance_scale=1.0))
        assert pipeline.edit_guidance(2.0) == 2.0 and pipeline.edit_guidance() == 1.0
    finally:
        config.edit_guidance_scale = None
    for bad in ("much", float("inf"), True):
        with pytest.raises(Omni123Error, match="source_bias"):
            call(pipeline, source_bias=bad)
