"""Components whose weights wait elsewhere: accelerate's hooks reach encode and decode, too."""

import copy

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.decoding import shape_field
from omni123_hf.pipelines import (
    Omni123EditPipeline,
    Omni123ImageTo3DPipeline,
    Omni123JointPipeline,
    Omni123TextTo3DPipeline,
)
from omni123_hf.pipelines.coloring import color_mesh
from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase
from omni123_hf.pipelines.preview_callback import PreviewCallback


PROMPT = "a tall red vase"
AXIS = np.linspace(-1, 1, 4, dtype=np.float32)


def own_copy(pipeline) -> Omni123JointPipeline:
    """Components that a test may put hooks on."""
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items()}
    return Omni123JointPipeline(**parts)


def offloaded(pipeline) -> Omni123JointPipeline:
    """Every weight on "meta", which holds no numbers, until a hook of accelerate brings it to the CPU for one call."""
    made = own_copy(pipeline)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, torch.device("cpu"))
    assert next(made.shape_tokenizer.parameters()).device.type == "meta"
    return made


def test_calls_that_encode_and_decode_run_with_weights_offloaded(tiny_pipeline):
    made = offloaded(tiny_pipeline)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8))
    for cls, inputs in (
        (Omni123JointPipeline, (PROMPT,)),
        (Omni123ImageTo3DPipeline, (picture, PROMPT)),
        (Omni123EditPipeline, ([torch.arange(8), torch.arange(8)], "wider")),
    ):
        away, here = cls.from_pipe(made), cls.from_pipe(tiny_pipeline)
        options = {"resolution": 16, "seed": 0, "temperature": 1.0}
        preview = PreviewCallback(away, lambda *_: None, every=4, resolution=16)
        found, wanted = away(*inputs, callback_on_step_end=preview, **options), here(*inputs, **options)
        assert torch.equal(found.shape_tokens, wanted.shape_tokens)
        assert found.failures == wanted.failures
        assert not shape_field(found.shape_tokens[0], away.shape_tokenizer).on_grid(AXIS).uses_tables
        assert shape_field(wanted.shape_tokens[0], here.shape_tokenizer).on_grid(AXIS).uses_tables
    assert np.array_equal(
        np.asarray(made.decode_images(torch.arange(16)[None])[0]),
        np.asarray(tiny_pipeline.decode_images(torch.arange(16)[None])[0]),
    )
    assert made.shape_tokenizer.device.type == made.transformer.device.type == "cpu"
    assert next(made.shape_tokenizer.parameters()).device.type == "meta"


class Counting(ModelHook):
    """Counts how often accelerate would bring the weights."""

    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


def test_every_way_into_a_model_runs_its_hook(tiny_pipeline):
    made = own_copy(tiny_pipeline)
    hooks = {}
    for name in ("shape_tokenizer", "image_tokenizer", "image_vae"):
        hooks[name] = Counting()
        add_hook_to_module(made.components[name], hooks[name])
    shape, image, vae = made.shape_tokenizer, made.image_tokenizer, made.image_vae
    points = torch.nn.functional.normalize(torch.randn(1, 32, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    pixels = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        for name, run in (
            ("shape_tokenizer", lambda: shape.encode(points, points)),
            ("shape_tokenizer", lambda: shape.encode_latents(points, points)),
            ("shape_tokenizer", lambda: shape.decode_latents(torch.arange(8)[None])),
            ("shape_tokenizer", lambda: shape.embed_codes(torch.arange(3)[None])),
            ("shape_tokenizer", lambda: shape.decode_vectors(torch.zeros(1, 3, 24))),
            ("shape_tokenizer", lambda: shape.project_latents(torch.zeros(1, 8, 24))),
            ("shape_tokenizer", lambda: shape.query(torch.zeros(1, 8, 24), points)),
            ("image_tokenizer", lambda: image.encode(torch.zeros(1, 12, 4, 4))),
            ("image_tokenizer", lambda: image.decode(torch.arange(16)[None], grid=(4, 4))),
            ("image_vae", lambda: vae.encode(pixels)),
            ("image_vae", lambda: vae.decode(torch.zeros(1, 12, 4, 4))),
        ):
            before = hooks[name].calls
            run()
            assert hooks[name].calls > before, name


def test_every_model_has_its_place_in_the_order_of_offloading(tiny_pipeline):
    order = Omni123PipelineBase.model_cpu_offload_seq.split("->")
    models = [name for name, part in tiny_pipeline.components.items() if isinstance(part, torch.nn.Module)]
    assert sorted(order) == sorted(models)


def test_another_precision_reaches_calls_that_encode_first(tiny_pipeline):
    import trimesh

    made = own_copy(tiny_pipeline).to(torch.bfloat16)
    picture = np.full((16, 16, 3), 90, np.uint8)
    assert Omni123ImageTo3DPipeline.from_pipe(made)(picture, output_type="tokens").shape_tokens.shape == (
        1,
        8,
    )
    box = trimesh.creation.box((1, 2, 0.5))
    output = Omni123EditPipeline.from_pipe(made)(box, "wider", resolution=16)
    assert output.shape_tokens.shape == (1, 8)
    assert made.transformer.dtype == torch.bfloat16
    ball = trimesh.creation.icosphere(2, radius=0.9)
    assert len(color_mesh(made, ball, output.shape_tokens[0]).views) == 6


def test_components_on_different_devices_are_one_clear_error(tiny_pipeline):
    first = own_copy(tiny_pipeline)
    second = Omni123TextTo3DPipeline.from_pipe(first)
    # Moving the second moves the components that both use; the first one's image components stay.
    second.to("meta")
    with pytest.raises(
        Omni123Error, match="image_vae, image_tokenizer on cpu.*transformer.* on meta|on meta.*on cpu"
    ) as caught:
        first(PROMPT, output_type="tokens")
    assert "\n" not in str(caught.value) and ".to(device)" in str(caught.value)
