"""Two domains in one run: the new one is learned from its codes, the old one from the base's own predictions.

Rehearsal on a few hundred objects would teach their codes by heart and the base would get worse on all others. So on old
batches the adapted model is held to the distribution that the base itself gives (learning without forgetting, Li & Hoiem 2016):
the divergence is zero for an adapter that changes nothing there, and no object can be over-learned.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import Omni123Error
from .autoregressive import Omni123Trainer
from .collation import TaskCollator
from .task_samples import TaskSample, TaskSampler


NEW, OLD = "new", "old"


class DomainSampler(TaskSampler):
    """Sample k with the name of its subset, which is its domain; a micro-batch is of one domain.

    `new_text_dropout`: of new samples, in place of the task's own. At 0 the model without text, which guidance subtracts, is
    trained on the old domain alone and so stays the base's.
    """

    def __init__(self, *args: Any, new_text_dropout: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.new_text_dropout = new_text_dropout

    def __call__(self, rng: np.random.Generator, k: int) -> tuple[str, TaskSample]:  # type: ignore[override]
        domain, sample = self.choice(rng, k)[0].name, super().__call__(rng, k)
        if domain == NEW and self.new_text_dropout is not None:
            sample = replace(sample, null_text=bool(rng.random() < self.new_text_dropout))
        return domain, sample


class DomainCollator:
    """Batches of `DomainSampler`'s samples: those of a `TaskCollator`, with `domain`."""

    def __init__(self, collator: TaskCollator):
        self.collator = collator

    def __call__(self, samples: Sequence[tuple[str, TaskSample]]) -> dict[str, Any]:
        return {**self.collator([sample for _, sample in samples]), "domain": samples[0][0]}


class LoraTrainer(Omni123Trainer):
    """Checkpoints hold what is trained, and only that.

    `distillation`: weight of the divergence from the base on old batches; 0 takes the cross-entropy of their codes instead.
    """

    def __init__(self, *args: Any, distillation: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.distillation = distillation

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if inputs.pop("domain", NEW) != OLD or not self.distillation:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        name = inputs.pop("task_name")
        output, summed = divergence(self.model, inputs)
        found = (inputs["labels"][:, 1:] != -100).sum()
        self.parts.setdefault("divergence", []).append((summed / found).detach())  # type: ignore[arg-type]
        summed = self.distillation * summed
        if num_items_in_batch is None:
            loss = summed / found
        else:
            # Gradients are averaged over ranks, and the count is that of all ranks.
            loss = summed / num_items_in_batch * self.accelerator.num_processes
        self.add_parts(f"old/{name}", output, output.loss.detach())
        return (loss, output) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, trained_state(self.model))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The base is missing from a checkpoint on purpose; anything of the adapter must not be."""
        missing = set(trained_state(self.model)) & set(load_result.missing_keys)
        if missing or load_result.unexpected_keys:
            name = sorted(missing | set(load_result.unexpected_keys))[0]
            raise Omni123Error(f"the newest checkpoint does not fit this run (at {name}): remove the run's folder.")


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def divergence(model: Any, inputs: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    """The adapted output, and the sum over target codes of KL(base ‖ adapted), float32.

    Both passes drop the same input tokens, or the base itself would not be at zero.
    """
    devices = [inputs["input_ids"].device] if inputs["input_ids"].is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad(), model.transformer.disable_adapter():
        wanted = model(**inputs).last_hidden_state
        heads = [(head, head_of_base(head)) for head in (model.transformer.shape_head, model.transformer.image_head)]
    output = model(**inputs)
    labels = inputs["labels"][:, 1:].flatten()
    states, wanted = output.last_hidden_state[:, :-1].flatten(0, 1), wanted[:, :-1].flatten(0, 1)
    total = states.new_zeros((), dtype=torch.float32)
    config = model.transformer.config
    for (head, base_head), offset in zip(heads, (0, config.image_offset), strict=True):
        if head is None:
            continue
        chosen = ((labels >= offset) & (labels < offset + head.out_features)).nonzero()[:, 0]
        size = config.loss_chunk_size or max(len(chosen), 1)
        for part in chosen.split(size):
            total = total + checkpoint(
                summed_divergence, states[part], wanted[part], head, base_head, use_reentrant=False
            )
    return output, total


def head_of_base(head: nn.Module | None) -> nn.Module | None:
    """The head as it is without the adapter; a trained one is kept beside it."""
    return getattr(head, "original_module", head)


def summed_divergence(
    states: torch.Tensor, wanted: torch.Tensor, head: nn.Module, base_head: nn.Module
) -> torch.Tensor:
    """Sum over positions of KL(base ‖ adapted) from final hidden states `(N, hidden)`."""
    with torch.no_grad():
        target = base_head(wanted).float().log_softmax(-1)
    return F.kl_div(head(states).float().log_softmax(-1), target, log_target=True, reduction="sum")
