"""What the field is trained on: occupancy, or truncated signed distances with a slope of one."""

import pytest
import torch
from tiny_shape import checkpoint_activations, make_inputs, make_model, make_points

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ShapeTokenizer
from omni123_hf.modeling.losses_shape import eikonal_loss, truncated_distance_loss


TAU = 0.3


def make_tsdf_inputs(queries: int = 16) -> dict[str, torch.Tensor]:
    """Signed distances, positive inside, to a ball of radius 0.6."""
    inputs = make_inputs(queries=queries)
    del inputs["occupancy"]
    return {**inputs, "signed_distance": 0.6 - inputs["queries"].norm(dim=-1)}


def make_tsdf_model(**changes) -> Omni123ShapeTokenizer:
    return make_model(field_target="tsdf", tsdf_truncation=TAU, **changes)


def test_loss_is_the_weighted_sum_of_its_named_parts():
    model = make_tsdf_model(eikonal_loss_weight=0.3, latent_alignment_loss_weight=0.7)
    output = model(**make_tsdf_inputs())
    assert output.occupancy_loss is None
    parts = output.field_loss + output.quantizer_loss + 0.3 * output.eikonal_loss + 0.7 * output.latent_alignment_loss
    torch.testing.assert_close(output.loss, parts)
    assert [name for name, value in output.items() if value.requires_grad] == ["loss", "logits"]
    occupancy = make_model()(**make_inputs())
    assert torch.equal(occupancy.field_loss, occupancy.occupancy_loss)
    torch.testing.assert_close(occupancy.loss, occupancy.field_loss + occupancy.quantizer_loss)
    assert occupancy.eikonal_loss is None and occupancy.latent_alignment_loss is None


def test_distances_are_clamped_scaled_and_positive_inside():
    distance = torch.tensor([[0.15, 2.0, -2.0, -0.15]])
    assert truncated_distance_loss(torch.tensor([[0.5, 1.0, -1.0, -0.5]]), distance, TAU) == 0
    # On the wrong side beyond the band there must still be a way back.
    far = torch.full((1, 1), 9.0, requires_grad=True)
    truncated_distance_loss(far, torch.tensor([[-1.0]]), TAU).backward()
    assert far.grad.item() == 1


def test_eikonal_term_measures_the_slope_of_the_distance_in_the_band_only():
    queries = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.7, 0.0], [0.0, 0.0, 3.0]]])
    distance = 0.6 - queries.norm(dim=-1)

    def loss(slope: float) -> float:
        return eikonal_loss(lambda x: slope * (0.6 - x.norm(dim=-1)) / TAU, queries, distance, TAU).item()

    assert loss(1.0) == pytest.approx(0, abs=1e-10)
    assert loss(3.0) == pytest.approx(4, rel=1e-5)
    # The last query is out of the band: whatever the field does there does not count.
    bent = eikonal_loss(lambda x: (0.6 - x.norm(dim=-1)) * (1 + 9 * (x[..., 2] > 1)) / TAU, queries, distance, TAU)
    assert bent.item() == pytest.approx(0, abs=1e-10)
    assert eikonal_loss(lambda x: x.sum(-1), queries, distance + 9, TAU).item() == 0


def test_slope_of_the_field_equals_finite_differences():
    model = make_tsdf_model()
    points, normals = make_points()
    with torch.no_grad():
        latents = model.decode_latents(model.encode(points, normals))
    queries = make_inputs()["queries"].requires_grad_()
    (gradient,) = torch.autograd.grad(model.query(latents, queries).sum(), queries)
    step = 1e-3
    with torch.no_grad():
        for axis in range(3):
            offset = torch.zeros(3).index_fill(0, torch.tensor([axis]), step)
            difference = (model.query(latents, queries + offset) - model.query(latents, queries - offset)) / (2 * step)
            torch.testing.assert_close(gradient[..., axis], difference, atol=5e-3, rtol=1e-2)


@pytest.mark.parametrize("part", ["occupancy_head", "decoder", "encoder", "point_embedding"])
def test_second_order_gradient_equals_finite_differences(part):
    model = make_tsdf_model(num_frequencies=2)
    inputs = make_tsdf_inputs()
    hidden = model.encode_latents(inputs["points"], inputs["normals"]).detach()

    def eikonal() -> torch.Tensor:
        # No quantiser in between: nearest codes would jump.
        encoded = model.encode_latents(inputs["points"], inputs["normals"]) if part == "encoder" else hidden
        latents, _ = model.decoder(encoded)
        return model.field_losses(
            model.query(latents, inputs["queries"]), latents, inputs["queries"], inputs["signed_distance"]
        )["eikonal_loss"]

    parameters = [p for p in getattr(model, part).parameters() if p.requires_grad]
    gradients = torch.autograd.grad(eikonal(), parameters, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    assert norm > 0
    # Along the gradient the slope is its norm; a central difference in float32 is good to about 1 %.
    step = 2e-3 / float(norm)
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p += sign * step * g
        values.append(eikonal().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(norm) ** 2, rel=0.02)


@pytest.mark.parametrize("reentrant", [True, False])
def test_eikonal_term_survives_gradient_checkpointing(reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = make_tsdf_model(shortcut_probability=0.0).train()
        if checkpointing:
            checkpoint_activations(model, reentrant)
        model(**make_tsdf_inputs()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_eikonal_term_is_computed_in_float32_under_autocast():
    model = make_tsdf_model()
    latents, inputs = torch.randn(2, 8, 32), make_tsdf_inputs()
    arguments = (torch.zeros(2, 16), latents, inputs["queries"], inputs["signed_distance"])
    exact = model.field_losses(*arguments)["eikonal_loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.field_losses(*arguments)["eikonal_loss"], exact)
        model(**inputs).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_eikonal_points_bound_the_second_order_work():
    model = make_tsdf_model(eikonal_points=5)
    inputs = make_tsdf_inputs(queries=40)
    seen = []
    query_proj = model.occupancy_head.query_proj
    query_proj.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    model(**inputs)
    assert seen == [40, 5]
    with torch.no_grad():
        assert model(**inputs).eikonal_loss is None
    assert seen == [40, 5, 40]


def test_the_second_stage_starts_from_occupancy_weights_and_learns_distances(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = Omni123ShapeTokenizer.from_pretrained(
        tmp_path, field_target="tsdf", tsdf_truncation=TAU, shortcut_probability=0.0
    ).train()
    first = make_model().state_dict()
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    inputs = make_tsdf_inputs(queries=256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        output = model(**inputs)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append((output.field_loss.item(), output.eikonal_loss.item()))
    assert losses[-1][0] < 0.5 * losses[0][0] and losses[-1][1] < 0.7 * max(value for _, value in losses)
    # Level 0 is the surface as before, positive inside.
    inside = model.eval()(**inputs).logits > 0
    assert (inside == (inputs["signed_distance"] > 0)).float().mean() > 0.9


def test_labels_must_fit_the_target():
    occupancy, tsdf = make_inputs(), make_tsdf_inputs()
    with pytest.raises(Omni123Error, match="'tsdf': give signed_distance"):
        make_tsdf_model()(**occupancy)
    with pytest.raises(Omni123Error, match="'occupancy': give occupancy"):
        make_model()(**tsdf)
    with pytest.raises(Omni123Error, match="signed_distance contain NaN"):
        make_tsdf_model()(**{**tsdf, "signed_distance": tsdf["signed_distance"] * torch.inf})
    assert make_tsdf_model()(**{**tsdf, "signed_distance": None}).loss is None


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_settings_without_a_meaning_are_refused(value):
    for name in (
        "tsdf_truncation",
        "eikonal_loss_weight",
        "ssl_loss_weight",
        "shortcut_probability",
        "ssl_mask_ratio",
    ):
        with pytest.raises(Omni123Error, match=name):
            make_model(**{name: value})
    with pytest.raises(Omni123Error, match="field_target"):
        make_model(field_target="sdf")
