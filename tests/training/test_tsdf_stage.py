"""The second stage on truncated signed distances: it starts at occupancy weights, learns, and its level 0 is the box."""

import json

import numpy as np
import pytest
import torch
from test_shape_tokenizer_stage import recipe
from tiny_store import BOX, box_distance, write_tiny_store

from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.extraction import extract_surface
from omni123_hf.modeling import Omni123ShapeTokenizer
from omni123_hf.training import shape_tokenizer
from omni123_hf.training.shape_validation import encode_rows, validation_figures


TRUNCATION, STEPS = 0.3, 70


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distances")
    # What is tested is the field, not how well a tiny code book tells boxes apart.
    write_tiny_store(folder, 16, TRUNCATION, one_box=True)
    return folder


@pytest.fixture(scope="module")
def first_stage(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("occupancy")
    shape_tokenizer.train(recipe(root, folder, 30, validation_pictures=0))
    return folder / "final"


def second_stage(root, out, first, steps=STEPS, **model):
    second = recipe(root, out, steps, validation_pictures=1, picture_resolution=24)
    second.model = {
        "from_pretrained": str(first), "field_target": "tsdf", "tsdf_truncation": TRUNCATION, "shortcut_probability": 0.0,
        "vq_assignment": "nearest", **model,
    }  # fmt: skip
    second.training |= {"lr_scheduler_type": "cosine", "save_steps": 100}
    return second


def test_distances_are_learned_from_occupancy_weights_and_level_zero_is_the_box(root, first_stage, tmp_path):
    metrics = shape_tokenizer.train(second_stage(root, tmp_path, first_stage))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [(line["field_loss"], line["eikonal_loss"]) for line in log if "field_loss" in line]
    assert losses[-1][0] < 0.6 * losses[0][0] and losses[-1][1] < losses[0][1]
    assert not any("occupancy_loss" in line for line in log)
    assert metrics["eval_distance_error"] < 0.06 and metrics["eval_slope_error"] < 0.6
    model, store = Omni123ShapeTokenizer.from_pretrained(tmp_path / "final"), AssetStore.open(root)
    assert model.config.field_target == "tsdf"
    with torch.no_grad():
        memory = model.project_latents(model.decode_latents(encode_rows(model, store, [0])))

        def field(points):
            return model.query(memory, torch.from_numpy(points)[None])[0].numpy()

        mesh = extract_surface(field, 32)
    assert np.abs(box_distance(np.asarray(mesh.vertices), BOX)).mean() < 0.08
    assert mesh.volume == pytest.approx(8 * BOX.prod(), rel=0.2)
    assert (tmp_path / "samples" / f"step_{STEPS:06d}.png").exists()


def test_the_start_keeps_the_surface_and_turns_logits_into_distances(root, first_stage):
    store = AssetStore.open(root)
    fields = {"field_target": "tsdf", "tsdf_truncation": TRUNCATION}
    model = Omni123ShapeTokenizer.from_pretrained(first_stage, **fields).eval()
    drawn = [
        shape_tokenizer.draw_shape(store, i, np.random.default_rng(i), 64, 96, 0.5, "signed_distance")
        for i in range(8)
    ]
    before = validation_figures(model, store, store.indices("validation"))
    factor = shape_tokenizer.scale_logits_to_distances(model, shape_tokenizer.stack(drawn))
    after = validation_figures(model, store, store.indices("validation"))
    assert 0.05 < factor < 0.9
    assert after["distance_error"] < before["distance_error"]
    assert all(after[name] == before[name] for name in before if name.endswith(("_real", "_parametric")))
    # Fitted: another fit finds nothing to change.
    assert shape_tokenizer.scale_logits_to_distances(model, shape_tokenizer.stack(drawn)) == pytest.approx(1, abs=1e-4)
    recipes = (second_stage(root, root, first_stage), recipe(root, root, 1))
    assert [shape_tokenizer.begins_distances(each, model) for each in recipes] == [True, False]


def test_the_figures_of_a_perfect_field_are_perfect(root):
    """A model that answers with the true distances has no error, and one that is twice as steep a slope error of 1."""
    store = AssetStore.open(root)
    model = Omni123ShapeTokenizer(
        shape_tokenizer.build_config(
            shape_tokenizer.Omni123ShapeTokenizerConfig,
            {**recipe(root, root, 1).model, "field_target": "tsdf", "tsdf_truncation": TRUNCATION},
        )
    ).eval()
    half = torch.from_numpy(BOX).float()

    def answer(steepness):
        def query(memory, points):
            beyond = points.abs() - half
            distance = -torch.linalg.vector_norm(beyond.clamp_min(0), dim=-1) - beyond.amax(-1).clamp_max(0)
            return steepness * distance / TRUNCATION

        return query

    model.query = answer(1.0)
    figures = validation_figures(model, store, np.array([0]))
    assert figures["distance_error"] < 1e-3 and figures["slope_error"] < 1e-3
    assert figures["volume_iou_real"] == figures["surface_iou_real"] == 1
    model.query = answer(2.0)
    assert validation_figures(model, store, np.array([0]))["slope_error"] == pytest.approx(1, abs=1e-3)


def test_data_that_cannot_train_distances_are_refused_before_anything_is_written(root, first_stage, tmp_path):
    write_tiny_store(tmp_path / "plain", 4)
    out = tmp_path / "out"
    with pytest.raises(Omni123Error, match="was prepared without: prepare the data with truncation"):
        shape_tokenizer.train(second_stage(tmp_path / "plain", out, first_stage))
    with pytest.raises(Omni123Error, match=r"distances of .* end at 0\.3: set tsdf_truncation to at most 0\.3"):
        shape_tokenizer.train(second_stage(root, out, first_stage, tsdf_truncation=0.5))
    assert not out.exists()
