"""The chunked loss: the plain value and gradient, without the plain memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import disk_offload
from tiny_omni123 import make_model, make_sequence, make_text
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ForConditionalGeneration
from omni123_hf.modeling.loss_omni123 import summed_cross_entropy


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "chunked_loss.py"


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any result of an operation has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def problem(tokens: int = 37, codes: int = 200, width: int = 8, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    head = nn.Linear(width, codes, bias=False, dtype=dtype)
    head.weight.data.normal_(generator=g)
    hidden = torch.randn(tokens, width, generator=g, dtype=dtype, requires_grad=True)
    return head, hidden, torch.randint(codes, (tokens,), generator=g)


def result(head, hidden, labels, chunk):
    head.zero_grad()
    hidden.grad = None
    loss = summed_cross_entropy(head, hidden, labels, chunk) / len(labels)
    loss.backward()
    weight = head.weight if hasattr(head, "weight") else head[0].weight
    return loss.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("chunk", [1, 8, 36])
def test_value_and_gradient_equal_the_plain_loss(chunk):
    head, hidden, labels = problem()
    for plain, chunked in zip(result(head, hidden, labels, 0), result(head, hidden, labels, chunk), strict=True):
        torch.testing.assert_close(chunked, plain, atol=1e-5, rtol=1e-5)


def test_gradients_pass_a_numerical_check():
    head, hidden, labels = problem(tokens=5, codes=7, width=3, dtype=torch.float64)
    torch.testing.assert_close(result(head, hidden, labels, 2)[1], result(head, hidden, labels, 0)[1])
    # The float32 sum inside limits finite differences, hence the wide tolerance.
    step, direction = 1e-3, torch.randn_like(hidden)
    with torch.no_grad():
        ends = [summed_cross_entropy(head, hidden + s * direction, labels, 2) for s in (step, -step)]
    slope = (result(head, hidden, labels, 2)[1] * len(labels) * direction).sum()
    torch.testing.assert_close((ends[0] - ends[1]).double() / (2 * step), slope, atol=5e-3, rtol=5e-3)


def test_a_head_that_is_not_plain_is_called_chunk_by_chunk():
    """As LoRA or quantisation leave it: no weight to read, so the module itself runs."""
    plain, hidden, labels = problem()
    wrapped = nn.Sequential(plain)
    calls = []
    wrapped.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    expected = result(plain, hidden, labels, 0)
    found = result(wrapped, hidden, labels, 10)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert max(calls) == 10


def test_a_head_whose_weight_lies_elsewhere_is_called_as_a_module(tmp_path):
    """accelerate's offloading replaces `forward` without a torch hook; its weight is on the meta device until called."""
    plain, hidden, labels = problem()
    expected = summed_cross_entropy(plain, hidden, labels, 0)
    disk_offload(plain, str(tmp_path), execution_device=torch.device("cpu"))
    assert plain.weight.device.type == "meta"
    torch.testing.assert_close(summed_cross_entropy(plain, hidden, labels, 10), expected)


def test_autocast_gives_the_autocast_gradient():
    head, hidden, labels = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = result(head, hidden, labels, 8)
        plain = result(head, hidden, labels, 0)
    assert found[0].dtype == torch.float32 and found[2].dtype == torch.float32
    for a, b in zip(plain, found, strict=True):
        torch.testing.assert_close(a, b, atol=3e-2, rtol=3e-2)


def test_frozen_heads_and_evaluation_cost_no_gradient():
    head, hidden, labels = problem()
    head.requires_grad_(False)
    summed_cross_entropy(head, hidden, labels, 8).backward()
    assert head.weight.grad is None and hidden.grad.abs().max() > 0
    with torch.no_grad():
        assert not summed_cross_entropy(head, hidden, labels, 8).requires_grad


def test_no_tensor_holds_the_logits_of_all_positions():
    head, hidden, labels = problem(tokens=512, codes=1000, width=4)
    seen = {}
    for chunk in (0, 16):
        with LargestTensor() as largest:
            summed_cross_entropy(head, hidden, labels, chunk).backward()
        seen[chunk] = largest.elements
    assert seen[0] == 512 * 1000
    assert seen[16] == 16 * 1000


def test_the_model_uses_it_and_its_loss_is_unchanged():
    losses, gradients = [], []
    for chunk in (0, 3):
        model = make_model(loss_chunk_size=chunk)
        sequence = make_sequence("text-to-images-to-3d-to-images", model.config)
        loss = model(sequence.ids, labels=sequence.labels, **make_text()).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-5, rtol=1e-5)


def test_a_second_backward_through_one_graph_is_refused_not_wrong():
    head, hidden, labels = problem()
    loss = summed_cross_entropy(head, hidden, labels, 8) * 2
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_negative_chunks_are_refused():
    with pytest.raises(Omni123Error, match="loss_chunk_size is -1"):
        make_model(loss_chunk_size=-1)
    assert Omni123ForConditionalGeneration.accepts_loss_kwargs


@pytest.mark.slow
def test_peak_memory_at_paper_size(tmp_path):
    """2,048 targets of 65,536 codes: at most 40% of the plain loss's memory, forward and backward."""
    out = tmp_path / "result.json"
    subprocess.run([sys.executable, str(BENCHMARK), "--chunks", "256", "--out", str(out)], check=True)
    plain, chunked = json.loads(out.read_text())["rows"]
    assert chunked["memory_share"] <= 0.40
    for name in ("loss", "hidden_gradient_norm", "head_gradient_norm"):
        assert chunked[name] == pytest.approx(plain[name], rel=1e-5)
