"""Averaged weights: the formula, exact exchange, and what is and is not averaged."""

import pytest
import torch
from torch import nn

from omni123_hf.training.averaging import WeightAverage


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.free, self.frozen = nn.Linear(3, 2), nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small()


def change(model: Small) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.randn(tensor.shape) if tensor.is_floating_point() else 1)


def test_averages_follow_the_formula_with_its_ramp(model):
    average = WeightAverage(model, 0.5)
    expected = {name: tensor.clone() for name, tensor in average.averages.items()}
    for n in range(12):
        change(model)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        for name, tensor in average.tracked():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.detach()
    assert min(0.5, (1 + 11) / (10 + 11)) == 0.5
    assert set(expected) == {"free.weight", "free.bias", "mean"}
    for name, value in expected.items():
        torch.testing.assert_close(average.averages[name], value)


def test_the_exchange_is_exact_and_leaves_the_rest_alone(model):
    average = WeightAverage(model, 0.9)
    change(model)
    average.update()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average.in_place():
        assert not torch.equal(model.free.weight, before["free.weight"])
        assert torch.equal(model.frozen.weight, before["frozen.weight"]) and model.count == before["count"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(RuntimeError), average.in_place():
        raise RuntimeError
    assert torch.equal(model.free.weight, before["free.weight"])


def test_a_jump_can_be_adopted_in_some_rows(model):
    average = WeightAverage(model, 0.9)
    old = average.averages["free.weight"].clone()
    change(model)
    average.adopt(model.free.weight, torch.tensor([1]))
    assert torch.equal(average.averages["free.weight"][1], model.free.weight[1])
    assert torch.equal(average.averages["free.weight"][0], old[0])
    average.adopt(model.free.bias)
    assert torch.equal(average.averages["free.bias"], model.free.bias)


def test_a_restored_average_goes_on_to_the_bit(model):
    average = WeightAverage(model, 0.9)
    for _ in range(3):
        change(model)
        average.update()
    other = WeightAverage(model, 0.9)
    other.load_state_dict({name: tensor.clone() for name, tensor in average.state_dict().items()})
    change(model)
    for each in (average, other):
        each.update()
    assert all(torch.equal(other.averages[name], value) for name, value in average.averages.items())
