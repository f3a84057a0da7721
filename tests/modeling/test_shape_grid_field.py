"""Fields of tokens on a grid: tables against points, batches of any size, and the sparse modes on the trained checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from omni123_hf.data.parametric.registry import build, sample_program
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.extraction import extract_surface, extract_surface_with_report
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.shape_grid_field import ROW_MULTIPLE, ShapeField, ShapeGridField
from omni123_hf.pipelines.shape_input import encode_shapes


MINI = Path(__file__).parents[2] / "checkpoints" / "omni123-mini" / "shape_tokenizer"
SIDE = 40
AXIS = np.linspace(-1.05, 1.05, SIDE, dtype=np.float32)


@pytest.fixture(scope="module")
def mini():
    return Omni123ShapeTokenizer.from_pretrained(MINI).eval()


def codes_of(tokenizer, name):
    return encode_shapes(build(sample_program(name, np.random.default_rng(5))).to_mesh(), tokenizer).tokens[0]


def points_at(flat):
    return np.stack([AXIS[i] for i in np.unravel_index(flat, (SIDE,) * 3)], axis=1)


def test_tables_give_the_field_of_the_points(mini):
    field = ShapeField(codes_of(mini, "chair"), mini)
    on_grid = field.on_grid(AXIS)
    assert on_grid.uses_tables and on_grid.tables.shape == (3, SIDE, mini.config.hidden_size)
    flat = np.random.default_rng(0).choice(SIDE**3, 2000, replace=False)
    values, plain = on_grid(flat), field(points_at(flat))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, plain, atol=1e-5, rtol=1e-5)
    clear = np.abs(plain) > 1e-4
    assert clear.mean() > 0.99 and np.array_equal(values[clear] > 0, plain[clear] > 0)


def test_a_point_has_the_same_bits_in_every_batch(mini):
    on_grid = ShapeField(codes_of(mini, "dog"), mini).on_grid(AXIS)
    flat = np.random.default_rng(1).choice(SIDE**3, 3000, replace=False)
    values = on_grid(flat)
    order = np.random.default_rng(2).permutation(len(flat))
    assert np.array_equal(on_grid(flat[order]), values[order])
    assert np.array_equal(np.concatenate([on_grid(part) for part in np.array_split(flat, 7)]), values)
    assert np.array_equal(on_grid(flat[:1]), values[:1]) and len(on_grid(flat[:0])) == 0


def test_layers_that_are_not_linear_have_no_tables(tiny_pipeline):
    tokenizer = tiny_pipeline.shape_tokenizer
    first = tokenizer.occupancy_head.query_proj.in_layer

    class Other(nn.Module):
        weight = first.weight

        def forward(self, x):
            return first(x)

    field = ShapeField(torch.arange(tokenizer.config.num_latents), tokenizer)
    flat = np.arange(600) * 7
    with_tables = field.on_grid(AXIS)(flat)
    tokenizer.occupancy_head.query_proj.in_layer = Other()
    try:
        plain = field.on_grid(AXIS)
    finally:
        tokenizer.occupancy_head.query_proj.in_layer = first
    assert not plain.uses_tables
    np.testing.assert_allclose(plain(flat), with_tables, atol=1e-5)
    with pytest.raises(Omni123Error, match=f"multiple of {ROW_MULTIPLE}"):
        ShapeGridField(field, AXIS, rows=100)


@pytest.mark.parametrize("name", ["chair", "windmill", "random"])
def test_safe_gives_the_dense_mesh_of_tokens(mini, name):
    random = torch.randint(mini.config.num_codes, (64,), generator=torch.Generator().manual_seed(0))
    field = ShapeField(random if name == "random" else codes_of(mini, name), mini)
    dense = extract_surface(field, SIDE)
    mesh, report = extract_surface_with_report(field, SIDE, mode="safe")
    assert np.array_equal(mesh.vertices, dense.vertices) and np.array_equal(mesh.faces, dense.faces)
    assert report.misses == 0 or report.escalations
    if name != "random":
        assert report.share < 0.6


def test_safe_at_65_gives_the_dense_mesh_that_scikit_image_marches(mini):
    field = ShapeField(codes_of(mini, "chair"), mini)
    dense = extract_surface(field, 65)
    mesh, report = extract_surface_with_report(field, 65, mode="safe")
    assert np.array_equal(mesh.vertices, dense.vertices) and np.array_equal(mesh.faces, dense.faces)
    assert report.share < 0.5 and report.audited_cells > 0
