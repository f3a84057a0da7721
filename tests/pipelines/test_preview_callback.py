"""Previews: when they come, what they show, and that they change nothing of the result."""

import numpy as np
import pytest
import torch
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.decoding import shape_field
from omni123_hf.pipelines import Omni123EditPipeline, Omni123ShapeToImagePipeline, Omni123TextTo3DPipeline
from omni123_hf.pipelines.preview_callback import COMPLETIONS, PreviewCallback, ball_tokens, partial_field


PROMPT = "a tall red vase"
POINTS = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)


def test_previews_come_every_few_codes_for_every_row_and_change_nothing(tiny_pipeline):
    seen, steps = [], []
    preview = PreviewCallback(
        tiny_pipeline,
        lambda mesh, step, total, row: seen.append((mesh, step, total, row)),
        every=3,
        resolution=16,
        then=lambda pipeline, step, total, facts: steps.append(step),
    )
    prompts = [PROMPT, "a blue car with four wheels"]
    output = tiny_pipeline(prompts, output_type="tokens", callback_on_step_end=preview)
    # 16 image codes first; of 8 shape codes, those after 3 and 6.
    assert [entry[1:] for entry in seen] == [(19, 24, 0), (19, 24, 1), (22, 24, 0), (22, 24, 1)]
    assert all(mesh is None or mesh.is_watertight for mesh, *_ in seen)
    assert steps == list(range(1, 25))
    assert torch.equal(output.shape_tokens, tiny_pipeline(prompts, output_type="tokens").shape_tokens)


def test_all_codes_are_the_shape_itself_and_fewer_are_not(tiny_pipeline):
    tokenizer = tiny_pipeline.shape_tokenizer
    tokens = torch.arange(8)
    whole = shape_field(tokens, tokenizer)(POINTS)
    for completion in COMPLETIONS:
        assert np.allclose(partial_field(tokens, tokenizer, completion)(POINTS), whole, atol=1e-5)
    found = [partial_field(tokens[:4], tokenizer, completion)(POINTS) for completion in COMPLETIONS]
    assert all(not np.allclose(one, whole, atol=1e-4) for one in found)
    assert not any(np.allclose(found[0], other, atol=1e-4) for other in found[1:])
    mixed = torch.cat([tokens[:4], ball_tokens(tokenizer)[4:]])
    assert np.allclose(found[1], shape_field(mixed, tokenizer)(POINTS), atol=1e-5)


def test_an_edit_is_completed_by_what_it_began_with(tiny_pipeline, monkeypatch):
    pipeline = Omni123EditPipeline.from_pipe(tiny_pipeline)
    used = []

    def recording(known, tokenizer, completion, source=None):
        used.append((completion, None if source is None else source.tolist()))
        return partial_field(known, tokenizer, completion, source)

    monkeypatch.setattr("omni123_hf.pipelines.preview_callback.partial_field", recording)
    shapes = torch.stack([torch.arange(8), torch.arange(8, 16)])
    preview = PreviewCallback(pipeline, lambda *_: None, every=4, resolution=16)
    options = {"temperature": 1.0, "seed": 0, "num_samples": 2, "output_type": "tokens"}
    pipeline(list(shapes), "wider", callback_on_step_end=preview, **options)
    assert used == [("source", shapes[row].tolist()) for row in (0, 0, 1, 1)]
    used.clear()
    Omni123TextTo3DPipeline.from_pipe(tiny_pipeline)(PROMPT, output_type="tokens", callback_on_step_end=preview)
    assert used == [("subset", None)]


def test_a_mesh_is_handed_on_where_there_is_a_surface(tiny_pipeline, monkeypatch):
    monkeypatch.setattr(tiny_pipeline.shape_tokenizer, "query", lambda latents, queries: 0.7 - queries.norm(dim=-1))
    preview = PreviewCallback(tiny_pipeline, lambda *_: None, resolution=16)
    mesh = preview.preview(torch.arange(3))
    assert isinstance(mesh, trimesh.Trimesh) and mesh.is_watertight
    monkeypatch.setattr(tiny_pipeline.shape_tokenizer, "query", lambda latents, queries: -queries.norm(dim=-1) - 1)
    assert preview.preview(torch.arange(3)) is None


def test_settings_that_cannot_be_are_named(tiny_pipeline):
    for options, message in (
        ({"every": 0}, "every 1, 2"),
        ({"every": 2.5}, "every 1, 2"),
        ({"resolution": 4}, "at least 16"),
        ({"completion": "best"}, "no completion 'best'"),
    ):
        with pytest.raises(Omni123Error, match=message):
            PreviewCallback(tiny_pipeline, lambda *_: None, **options)
    with pytest.raises(Omni123Error, match="for edits"):
        PreviewCallback(tiny_pipeline, lambda *_: None, resolution=16, completion="source").preview(torch.arange(3))
    pipeline = Omni123ShapeToImagePipeline.from_pipe(tiny_pipeline)
    pipeline.shape_tokenizer = None
    with pytest.raises(Omni123Error, match="makes no shapes"):
        PreviewCallback(pipeline, lambda *_: None)
