"""An exponential moving average of a model's weights, for validation and the final model (`options.ema_decay`).

After update n (from 0) each average is `a + (1 - d)(w - a)` with `d = min(decay, (1 + n) / (10 + n))`: the ramp lets the
average leave the random start quickly, without which a short run would validate its initial weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Averages of a model's trainable parameters and of its floating-point buffers (statistics follow the weights).

    What else the model has (frozen parameters, counters) is the model's own. `state_dict` and `load_state_dict` make a
    resumed run go on to the bit.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.updates = model, decay, 0
        self.averages = {name: tensor.detach().clone() for name, tensor in self.tracked()}

    def tracked(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if tensor.is_floating_point() and (tensor.requires_grad or not isinstance(tensor, nn.Parameter)):
                yield name, tensor

    @torch.no_grad()
    def update(self) -> None:
        """Moves the averages towards the weights; call after each step of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in self.tracked():
            self.averages[name].lerp_(tensor, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def adopt(self, tensor: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Sets the average of a parameter (or of some of its rows) to its present value, after a jump of that value."""
        for name, tracked in self.tracked():
            if tracked is tensor:
                chosen = slice(None) if rows is None else rows
                self.averages[name][chosen] = tracked.detach()[chosen]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the model's weights and the averages, to the bit: a second call undoes the first."""
        for name, tensor in self.tracked():
            weights = tensor.detach().clone()
            tensor.copy_(self.averages[name])
            self.averages[name].copy_(weights)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the model holds the averages."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"updates": torch.tensor(self.updates), **{f"average.{k}": v for k, v in self.averages.items()}}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.updates = int(state["updates"])
        for name, average in self.averages.items():
            average.copy_(state[f"average.{name}"])
