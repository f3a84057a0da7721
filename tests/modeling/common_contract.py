"""What a model's test class states about its model; the common tests read only this."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel


Inputs = dict[str, Any]


class ModelUnderTest:
    """Base of every common test. A subclass fills in the class attributes and the methods that raise here."""

    model_class: ClassVar[Any]
    config_class: ClassVar[Any]

    # Fields of the forward output that hold one entry for each row of the batch.
    row_fields: ClassVar[tuple[str, ...]]

    # Every attention implementation that the model accepts; all others must be refused.
    attention_implementations: ClassVar[tuple[str, ...]] = ("eager", "sdpa")

    # Parts of parameter names that stay float32 in a half-precision model.
    pinned: ClassVar[tuple[str, ...]] = ()

    # Regular expressions of parameters and buffers that rightly start at one constant value, with the reason.
    constant_at_start: ClassVar[dict[str, str]] = {}

    # Named targets of LoRA (a trap of "all-linear": it would adapt the heads).
    lora_targets: ClassVar[tuple[str, ...]]

    # Capability -> why this model does without it. The tests that need it are skipped with this reason, and
    # `test_what_is_said_to_be_absent_is_absent` checks the claim itself. Capabilities: "padding", "hidden states",
    # "input embeddings".
    lacks: ClassVar[dict[str, str]] = {}

    def make_config(self, **changes: Any) -> PreTrainedConfig:
        raise NotImplementedError

    def make_inputs(self, batch: int = 2) -> Inputs:
        """Inputs of an evaluation pass; tensors lead with the batch axis."""
        raise NotImplementedError

    def make_training_inputs(self, batch: int = 2) -> Inputs:
        """Inputs whose output has a loss that reaches every trainable parameter."""
        raise NotImplementedError

    def make_padded_inputs(self) -> Inputs:
        """`make_inputs()` with more padding; row fields keep their values at the first positions."""
        raise NotImplementedError

    def doors(self, model: Any) -> dict[str, Callable[[], torch.Tensor]]:
        """The public methods beside `forward`, each as a call with fixed inputs."""
        raise NotImplementedError

    def build(self, seed: int = 0, **changes: Any) -> PreTrainedModel:
        """A freshly initialised model in evaluation mode."""
        torch.manual_seed(seed)
        return self.model_class(self.make_config(**changes)).eval()

    def make_model(self, seed: int = 0) -> PreTrainedModel:
        """As `build`, with weights that make every path matter; what a trained model would be."""
        return self.build(seed)

    def needs(self, capability: str) -> None:
        if capability in self.lacks:
            pytest.skip(self.lacks[capability])


def rows_of(inputs: Inputs, rows: slice) -> Inputs:
    """Some rows of a batch."""
    return {key: value[rows] if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}


def tensors_of(output: Any) -> dict[str, torch.Tensor]:
    """The tensors of an output by field; tuples of tensors (hidden states) as `field.i`."""
    found = {}
    for key, value in output.items():
        if isinstance(value, torch.Tensor):
            found[key] = value
        elif isinstance(value, tuple):
            found.update({f"{key}.{i}": part for i, part in enumerate(value) if isinstance(part, torch.Tensor)})
    return found


@torch.no_grad()
def run(model: Any, inputs: Inputs, **options: Any) -> dict[str, torch.Tensor]:
    """Tensors of one forward pass without gradients."""
    return tensors_of(model(**inputs, **options))


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    """Same fields, same values up to an absolute and relative tolerance; at least one tensor."""
    assert left.keys() == right.keys() and left
    for key in left:
        torch.testing.assert_close(
            left[key].detach(),
            right[key].detach(),
            atol=tolerance,
            rtol=tolerance,
            msg=lambda text, key=key: f"{key}: {text}",  # type: ignore[misc]
        )


def tensors_of_model(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, non-persistent ones included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@contextmanager
def poisoned_memory():
    """Fresh memory holds NaN (integers: their maximum) instead of whatever lay there before.

    Without it a forgotten tensor is often zero by luck, and the test passes.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(2).isnan().all() and torch.empty_like(torch.zeros(2)).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def is_poisoned(tensor: torch.Tensor) -> bool:
    if tensor.is_floating_point():
        return not bool(tensor.isfinite().all())
    return tensor.dtype != torch.bool and tensor.numel() > 0 and bool((tensor == torch.iinfo(tensor.dtype).max).any())
