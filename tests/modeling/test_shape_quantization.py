"""The shape quantiser in training: transport equals its textbook form in bounded memory, and the shortcut is one."""

import pytest
import torch
import torch.nn.functional as F
from tiny_shape import make_inputs, make_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from two_ranks import on_two_ranks

from omni123_hf.modeling.quantization import (
    TransportPlan,
    distance_deviation,
    nearest_codes,
    sinkhorn_assignment,
    squared_distances,
)


def sphere(count: int, dim: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=g, dtype=dtype), dim=-1) * dim**0.5


def textbook_plan(z: torch.Tensor, codes: torch.Tensor, iterations: int = 5, temperature: float = 0.1) -> torch.Tensor:
    """OptVQ's plan (N, K), held whole."""
    cost = (z[:, None] - codes).pow(2).sum(-1)
    cost = (cost - cost.mean()) / cost.std()
    plan = torch.exp(-(cost - cost.min()) / temperature)
    for _ in range(iterations):
        plan = plan / plan.sum(0) / len(codes)
        plan = plan / plan.sum(1, keepdim=True) / len(z)
    return plan


@pytest.mark.parametrize(("rows", "codes", "dim"), [(3, 7, 4), (37, 16, 4), (256, 300, 16), (1000, 64, 16)])
@pytest.mark.parametrize("chunk", [1, 64, 4096])
def test_assignment_equals_the_textbook_plan(rows, codes, dim, chunk):
    z, book = sphere(rows, dim, 1), sphere(codes, dim, 2)
    z[: rows // 2] = z[:1] + 0.1 * z[: rows // 2]
    expected = textbook_plan(z, book)
    assert torch.equal(sinkhorn_assignment(z, book, 5, 0.1, chunk), expected.argmax(-1))
    in_float32 = sinkhorn_assignment(z.float(), book.float(), 5, 0.1, chunk)
    chosen, best = expected.gather(1, in_float32[:, None])[:, 0], expected.max(-1).values
    # Rounding may swap two codes of equal weight, and no others.
    assert (chosen >= best * (1 - 1e-3)).all()


def test_deviation_of_distances_is_that_of_all_pairs():
    z, codes = sphere(50, 6, 1) + 3, sphere(20, 6, 2) * 1.7
    torch.testing.assert_close(distance_deviation(z, codes), squared_distances(z, codes).std())


def test_the_plan_is_never_held_whole():
    class LargestTensor(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.size = max([self.size, *sizes])
            return result

    z, codes = sphere(4096, 16, 1, torch.float32), sphere(512, 16, 2, torch.float32)
    with LargestTensor() as largest:
        sinkhorn_assignment(z, codes, 5, 0.1, chunk=256)
    # The samples themselves with two more columns, or one chunk of the plan, whichever is larger.
    assert largest.size == max(256 * 512, 4096 * 18)


def test_masses_are_balanced():
    # All samples in one corner: the nearest codes of nearly all are a few.
    codes = sphere(64, 8, 1)
    z = codes[:1] + 0.15 * sphere(2048, 8, 2)
    plan = TransportPlan(z, codes, temperature=0.1, chunk=500)
    for _ in range(5):
        plan.balance()
    rows = torch.cat(list(plan.log_rows())).exp()
    torch.testing.assert_close(rows.sum(1), torch.ones(len(z), dtype=rows.dtype))
    masses = rows.mean(0) * len(codes)
    assert 0.8 < masses.min() and masses.max() < 1.2
    counts = torch.bincount(sinkhorn_assignment(z, codes, 5, 0.1), minlength=64)
    nearest = torch.bincount(nearest_codes(z, codes), minlength=64)
    assert (counts > 0).sum() > 2 * (nearest > 0).sum()
    assert counts.max() < 0.5 * nearest.max()


def test_samples_too_far_for_linear_arithmetic_do_no_harm():
    # One sample far from all codes: its exp(-cost / temperature) are zero in float32, and 0 / 0 follows.
    codes = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) * 0.01
    z = codes[torch.arange(3000) % 8]
    z[0] = 100.0
    assert textbook_plan(z, codes).isnan().any()
    plan, exact = TransportPlan(z, codes, 0.1, 512), TransportPlan(z.double(), codes.double(), 0.1, 512)
    for either in (plan, exact) * 5:
        either.balance()
    rows = torch.cat(list(plan.log_rows()))
    assert rows.isfinite().all()
    torch.testing.assert_close(rows, torch.cat(list(exact.log_rows())).float(), atol=0.05, rtol=0)
    identical = TransportPlan(torch.ones(5, 4), torch.ones(3, 4), 0.1, 2)
    identical.balance()
    assert torch.cat(list(identical.log_rows())).isfinite().all()


def assign_own_rows(rank: int, z: list, codes: list, dtype: torch.dtype) -> list[int]:
    rows = torch.tensor(z, dtype=dtype).tensor_split([150])[rank]
    return sinkhorn_assignment(rows, torch.tensor(codes, dtype=dtype), 5, 0.1, chunk=64).tolist()


def test_two_ranks_assign_as_one_process_over_the_joint_batch():
    codes = sphere(40, 8, 1)
    # The ranks see different corners, so that plans of their own would differ from the joint one.
    z = torch.cat([codes[:1] + 0.3 * sphere(150, 8, 2), codes[5:6] + 0.3 * sphere(50, 8, 3)])
    joint = sinkhorn_assignment(z, codes, 5, 0.1)
    alone = torch.cat([sinkhorn_assignment(part, codes, 5, 0.1) for part in z.tensor_split([150])])
    assert (joint != alone).sum() > 20
    first, second = on_two_ranks(assign_own_rows, z.tolist(), codes.tolist(), torch.float64)
    assert first + second == joint.tolist()


@torch.no_grad()
def test_inference_takes_the_nearest_code_whatever_the_training_assignment():
    hidden = torch.randn(6, 8, 32, generator=torch.Generator().manual_seed(0))
    transport = make_model(vq_assignment="optimal_transport").quantizer
    nearest = nearest_codes(transport.project(hidden).flatten(0, 1), transport.codes()).view(6, 8)
    latents, _, indices = transport(hidden)
    assert torch.equal(indices, nearest) and torch.equal(transport.encode(hidden), nearest)
    torch.testing.assert_close(latents, transport.decode(nearest))
    assert not torch.equal(transport.train()(hidden)[2], nearest)


@torch.no_grad()
def test_half_of_the_samples_take_the_shortcut_in_training_only():
    quantizer = make_model(shortcut_probability=0.5, vq_assignment="nearest").quantizer.train()
    hidden = torch.randn(2000, 3, 32, generator=torch.Generator().manual_seed(0))
    latents, _, indices = quantizer(hidden)
    skipped = (latents - quantizer.out_proj(quantizer.shortcut(hidden))).abs().amax((1, 2)) < 1e-5
    coded = (latents - quantizer.decode(indices)).abs().amax((1, 2)) < 1e-5
    assert (skipped ^ coded).all(), "a sample goes one way with all of its latents"
    assert 0.45 < skipped.float().mean() < 0.55
    quantizer.shortcut.weight.fill_(torch.nan)
    assert quantizer.eval()(hidden)[0].isfinite().all()


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_every_parameter_has_a_gradient_in_every_case(probability, quantize):
    model = make_model(shortcut_probability=probability).train()
    model(**make_inputs(), quantize=quantize).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    reaches = model.quantizer.shortcut.weight.grad.abs().max() > 0
    assert reaches == (quantize and probability == 1.0) or probability == 0.5


def train_in_parallel(rank: int) -> list[float]:
    sums = []
    inputs = {name: value[rank : rank + 1] for name, value in make_inputs().items()}
    for probability in (0.0, 0.5, 1.0):
        model = make_model(shortcut_probability=probability).train()
        torch.manual_seed(rank)
        # Without `find_unused_parameters` a forward fails where the one before it left a parameter without gradient.
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        for quantize in (False, True, True):
            parallel(**inputs, quantize=quantize).loss.backward()
            sums.append(float(sum(p.grad.double().sum() for p in model.parameters() if p.grad is not None)))
    return sums


@pytest.mark.slow
def test_parallel_training_needs_no_search_for_unused_parameters():
    first, second = on_two_ranks(train_in_parallel, start="spawn")
    assert first == second
