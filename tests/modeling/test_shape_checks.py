"""Every bad input of the shape tokenizer's public methods is one `Omni123Error`, never an error of torch's."""

import pytest
import torch
from tiny_shape import make_inputs, make_model, make_points

from omni123_hf.errors import Omni123Error


POINTS, NORMALS = make_points()


def with_value(x: torch.Tensor, value: float) -> torch.Tensor:
    return x.index_put((torch.tensor(0), torch.tensor(3)), torch.tensor(value))


BAD_SURFACES = {
    "not a tensor": (POINTS.numpy(), NORMALS, "points must be a torch tensor"),
    "no batch axis": (POINTS[0], NORMALS[0], r"points must have shape \(B, N, 3\)"),
    "two coordinates": (POINTS[..., :2], NORMALS[..., :2], r"points must have shape \(B, N, 3\)"),
    "whole numbers": (POINTS.long(), NORMALS, "points must be floating point"),
    "fewer normals": (POINTS, NORMALS[:, :3], "must both be"),
    "other batch": (POINTS, NORMALS[:1], "must both be"),
    "no points": (POINTS[:, :0], NORMALS[:, :0], "no surface point"),
    "no rows": (POINTS[:0], NORMALS[:0], "no surface point"),
    "NaN point": (with_value(POINTS, float("nan")), NORMALS, "NaN or infinity"),
    "infinite point": (with_value(POINTS, float("-inf")), NORMALS, "NaN or infinity"),
    "outside": (with_value(POINTS, 1.06), NORMALS, r"outside the box ±1.05 \(largest coordinate 1.06\)"),
    "NaN normal": (POINTS, with_value(NORMALS, float("nan")), "NaN or infinity"),
    "infinite normal": (POINTS, with_value(NORMALS, float("inf")), "NaN or infinity"),
    "zero normal": (POINTS, with_value(NORMALS, 0.0), "1 normals have length zero .* drop those points"),
    "long normals": (POINTS, NORMALS * 1.1, "unit length; got lengths from 1.1 to 1.1"),
    "short normals": (POINTS, NORMALS * 0.5, "unit length"),
}


@pytest.mark.parametrize("case", BAD_SURFACES)
def test_bad_surfaces(case):
    points, normals, message = BAD_SURFACES[case]
    model = make_model()
    for method in (model.encode, model.encode_latents, lambda p, n: model(p, n, torch.zeros(2, 4, 3))):
        with pytest.raises(Omni123Error, match=message):
            method(points, normals)


@torch.no_grad()
def test_surfaces_at_the_edge_of_what_is_allowed():
    model = make_model()
    corner = POINTS.clone()
    corner[0, 0] = torch.tensor([1.05, -1.05, 1.05])
    assert model.encode(corner, NORMALS * 1.04).shape == (2, 8)
    assert model.encode(corner.half(), NORMALS.half()).shape == (2, 8)
    assert model.encode(corner.double(), NORMALS.double()).shape == (2, 8)


CODES = torch.zeros(2, 8, dtype=torch.long)
BAD_CODES = {
    "a list": (CODES.tolist(), "must be a torch tensor"),
    "no batch axis": (CODES[0], r"give \(B, 8\)"),
    # One token would broadcast over all positions without a word.
    "too few": (CODES[:, :1], r"give \(B, 8\)"),
    "no rows": (CODES[:0], "no rows"),
    "fractions": (CODES.float(), "whole numbers; got torch.float32"),
    "truth values": (CODES.bool(), "whole numbers; got torch.bool"),
    "too large": (CODES + 32, r"in \[0, 32\); got 32..32"),
    "negative": (CODES - 1, r"in \[0, 32\); got -1..-1"),
}


@pytest.mark.parametrize("case", BAD_CODES)
def test_bad_codes(case):
    indices, message = BAD_CODES[case]
    with pytest.raises(Omni123Error, match=message):
        make_model().decode_latents(indices)


@torch.no_grad()
def test_codes_of_any_width_decode_alike():
    model = make_model()
    expected = model.decode_latents(CODES + 3)
    for dtype in (torch.int32, torch.int16, torch.uint8, torch.uint16):
        assert torch.equal(model.decode_latents((CODES + 3).to(dtype)), expected)


QUERIES = torch.zeros(2, 4, 3)
BAD_QUERIES = {
    "not a tensor": (QUERIES.numpy(), "queries must be a torch tensor"),
    "no batch axis": (QUERIES[0], r"queries must have shape \(B, Q, 3\)"),
    "two coordinates": (QUERIES[..., :2], r"queries must have shape \(B, Q, 3\)"),
    "whole numbers": (QUERIES.long(), "queries must be floating point"),
    "other batch": (QUERIES[:1], "queries have 1 rows, but the (points|latents) have 2"),
    "NaN": (with_value(QUERIES, float("nan")), "queries contain NaN"),
    "infinite": (with_value(QUERIES, float("inf")), "queries contain NaN or infinity"),
}


@pytest.mark.parametrize("case", BAD_QUERIES)
def test_bad_queries(case):
    queries, message = BAD_QUERIES[case]
    model = make_model()
    latents = model.decode_latents(CODES)
    for ask in (
        lambda: model.query(latents, queries),
        lambda: model.query(model.project_latents(latents), queries),
        lambda: model(POINTS, NORMALS, queries),
    ):
        with pytest.raises(Omni123Error, match=message):
            ask()


@torch.no_grad()
def test_queries_may_lie_outside_the_box_and_there_may_be_none():
    model = make_model()
    latents = model.decode_latents(CODES)
    assert model.query(latents, QUERIES + 2).isfinite().all()
    assert model.query(latents, QUERIES[:, :0]).shape == (2, 0)
    for bad in (latents[0], latents[..., :4], None):
        with pytest.raises(Omni123Error, match=r"latents must .*\(B, L, 32\)"):
            model.query(bad, QUERIES)


def test_bad_labels():
    model, inputs = make_model(), make_inputs()
    good = inputs.pop("occupancy")
    for occupancy, message in (
        (good[:, :3], r"occupancy must have shape \(2, 16\), one value for each query"),
        (good[..., None], "one value for each query"),
        (good.numpy(), "must be a torch tensor"),
        (good * 1.5, r"lie in \[0, 1\]; values range from 0 to 1.5"),
        (good - 0.5, r"lie in \[0, 1\]"),
        (with_value(good, float("nan")), "occupancy contain NaN"),
    ):
        with pytest.raises(Omni123Error, match=message):
            model(**inputs, occupancy=occupancy)
    torch.testing.assert_close(model(**inputs, occupancy=good.bool()).loss, model(**inputs, occupancy=good).loss)
    with pytest.raises(Omni123Error, match="no queries to compare"):
        model(POINTS, NORMALS, QUERIES[:, :0], occupancy=QUERIES[:, :0, 0])


def test_values_are_not_read_while_a_graph_is_traced():
    model = make_model()

    class Encode(torch.nn.Module):
        def forward(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
            return model.encode_latents(points, normals)

    encode = Encode()
    encode.model = model
    # Reading a value breaks a strict trace.
    program = torch.export.export(encode, (POINTS, NORMALS), strict=False)
    torch.testing.assert_close(program.module()(POINTS, NORMALS), model.encode_latents(POINTS, NORMALS))
    with pytest.raises(Omni123Error, match="must both be"):
        torch.export.export(encode, (POINTS, NORMALS[:, :3]), strict=False)
    meta = torch.zeros(2, 5, 3, device="meta")
    assert make_model().to("meta").encode_latents(meta, meta).shape == (2, 8, 32)
