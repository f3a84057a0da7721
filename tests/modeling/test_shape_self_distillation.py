"""The self-supervised term: what the student sees, who learns, how teacher and centre move, and that no weight is saved."""

import pytest
import torch
import torch.nn.functional as F
from tiny_shape import checkpoint_activations, make_inputs, make_model, make_points
from two_ranks import on_two_ranks

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ShapeTokenizer
from omni123_hf.modeling.self_distillation_shape import ShapeSelfDistillation


def make_pair(**changes) -> tuple[Omni123ShapeTokenizer, ShapeSelfDistillation]:
    model = make_model(**changes).train()
    return model, ShapeSelfDistillation(model)


def test_loss_enters_the_models_loss_with_its_weight():
    model, distillation = make_pair(ssl_loss_weight=0.25, shortcut_probability=0.0)
    output = model(**make_inputs(), self_distillation=distillation)
    parts = output.occupancy_loss + output.quantizer_loss + 0.25 * output.self_distillation_loss
    torch.testing.assert_close(output.loss, parts)
    assert model(**make_inputs()).self_distillation_loss is None
    assert make_model().config.ssl_loss_weight == 0.0005
    inputs = make_inputs()
    del inputs["occupancy"]
    with pytest.raises(Omni123Error, match="give occupancy"):
        model(**inputs, self_distillation=distillation)


def test_loss_equals_its_formula():
    model, distillation = make_pair(ssl_mask_ratio=0.0, ssl_student_temperature=0.2, ssl_teacher_temperature=0.05)
    distillation.center.copy_(torch.linspace(-0.1, 0.1, 16))
    points, normals = make_points()
    center = distillation.center.clone()
    with torch.no_grad():
        # Without masking student and teacher are the same function before the first step.
        class_token = model.encoder(model.point_embedding(points), normals)[:, 0]
        scores = distillation.student_head(class_token)
        assert scores.shape == (2, 16) and scores.abs().max() <= 1
        targets = torch.softmax((scores - center) / 0.05, -1)
        expected = -(targets * torch.log_softmax(scores / 0.2, -1)).sum(-1).mean()
    torch.testing.assert_close(distillation.loss(model, points, normals), expected)
    torch.testing.assert_close(distillation.center, 0.9 * center + 0.1 * scores.mean(0))
    moved = distillation.center.clone()
    distillation.eval().loss(model, points, normals)
    assert torch.equal(distillation.center, moved)


@torch.no_grad()
def test_the_student_goes_without_a_random_share_of_its_queries():
    _, distillation = make_pair(ssl_mask_ratio=0.25)
    # Row r of the queries holds r, so that the choice can be read off.
    visible = distillation.visible_queries(torch.arange(9.0)[:, None].expand(9, 4), batch=500)[..., 0]
    assert visible.shape == (500, 7) and (visible[:, 0] == 0).all()
    assert (visible.diff(dim=1) > 0).all()
    shares = torch.bincount(visible.long().flatten(), minlength=9)[1:] / 500
    assert ((shares - 0.75).abs() < 0.08).all()
    assert distillation.visible_queries(torch.zeros(2, 4), batch=1).shape == (1, 2, 4)


def test_gradient_reaches_student_and_head_and_never_the_teacher():
    model, distillation = make_pair()
    distillation.loss(model, *make_points()).backward()
    trained = [*model.encoder.named_parameters(), *distillation.student_head.named_parameters()]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for _, p in trained)
    assert model.quantizer.in_proj.weight.grad is None and model.decoder.position_embedding.grad is None
    assert all(p.grad is None and not p.requires_grad for p in distillation.teacher.parameters())
    assert distillation.training and not any(module.training for module in distillation.teacher.modules())
    assert distillation.train().teacher["encoder"].layers[0].training is False


def test_the_teacher_is_an_average_of_the_student():
    model, distillation = make_pair(ssl_momentum=0.9)
    before = {name: p.clone() for name, p in distillation.teacher.named_parameters()}
    with torch.no_grad():
        for p in (*model.parameters(), *distillation.student_head.parameters()):
            p += 1.0
    distillation.update_teacher(model)
    for name, p in distillation.teacher.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.1)
    assert not any(p is q for p in model.parameters() for q in distillation.parameters())
    half = make_model().bfloat16()
    assert ShapeSelfDistillation(half).teacher["encoder"].query.dtype == torch.float32
    assert ShapeSelfDistillation(half).loss(half, *make_points()).isfinite()


def test_no_weight_of_it_belongs_to_the_model(tmp_path):
    model, distillation = make_pair()
    keys = set(model.state_dict())
    model(**make_inputs(), self_distillation=distillation).loss.backward()
    assert set(model.state_dict()) == keys == set(make_model().state_dict())
    distillation.update_teacher(model)
    # All that a resumed run needs is in the state: teacher, heads and centre.
    fresh = ShapeSelfDistillation(make_model(code_scale_init=2.0))
    fresh.load_state_dict(distillation.state_dict())
    torch.manual_seed(3)
    expected = distillation.loss(model, *make_points())
    torch.manual_seed(3)
    assert torch.equal(fresh.loss(model, *make_points()), expected)
    assert torch.equal(fresh.center, distillation.center) and fresh.center.abs().max() > 0


@pytest.mark.slow
def test_shapes_come_to_be_told_apart_without_collapse():
    model, distillation = make_pair(ssl_momentum=0.98)
    g = torch.Generator().manual_seed(3)
    normals = F.normalize(torch.randn(8, 48, 3, generator=g), dim=-1)
    radii = torch.rand(8, 1, 3, generator=g) * 0.8 + 0.1
    ellipsoids = (normals * radii, F.normalize(normals / radii, dim=-1))
    optimizer = torch.optim.AdamW([*model.parameters(), *distillation.student_head.parameters()], lr=1e-3)

    def information() -> float:
        """Nats that a prototype says about which of the eight shapes it is; 0 when all collapse to one or to all."""
        targets = distillation.eval().teacher_targets(*ellipsoids)
        distillation.train()
        mean = targets.mean(0)
        return float((targets * (targets.clamp_min(1e-9) / mean.clamp_min(1e-9)).log()).sum(-1).mean())

    before = information()
    for _ in range(180):
        loss = distillation.loss(model, *ellipsoids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distillation.update_teacher(model)
    assert before < 0.2 and information() > 0.6


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant):
    gradients = []
    for checkpointing in (False, True):
        model, distillation = make_pair(shortcut_probability=0.0)
        if checkpointing:
            checkpoint_activations(model, reentrant)
        torch.manual_seed(0)
        model(**make_inputs(), self_distillation=distillation).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(gradients[0], gradients[1])


def center_and_gradient(rank: int) -> tuple[list[float], list[float]]:
    model, distillation = make_pair(ssl_mask_ratio=0.0)
    points, normals = make_points(batch=4)
    # Ranks of different size: the centre weighs samples, not ranks.
    rows = slice(0, 3) if rank == 0 else slice(3, 4)
    with torch.no_grad():
        distillation.loss(model, points[rows], normals[rows])
    for p in distillation.student_head.parameters():
        p.grad = torch.full_like(p, float(rank))
    distillation.average_gradients()
    return distillation.center.tolist(), distillation.student_head.prototypes.grad.unique().tolist()


def test_centre_and_head_are_the_same_on_all_ranks():
    model, distillation = make_pair(ssl_mask_ratio=0.0)
    with torch.no_grad():
        distillation.loss(model, *make_points(batch=4))
    first, second = on_two_ranks(center_and_gradient)
    assert first == second and first[1] == [0.5]
    torch.testing.assert_close(torch.tensor(first[0]), distillation.center)
