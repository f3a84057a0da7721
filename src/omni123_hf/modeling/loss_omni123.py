"""Cross-entropy of a linear head over many codes, without the logits of all positions at once (paper §4.1 heads).

At paper scale 2,048 image targets times 65,536 codes are half a gigabyte of float32 logits, and the plain loss keeps
them about three times. Here the loss runs over chunks of positions, and each chunk's gradient is taken at once, so that
only the hidden states, their gradient and the head's gradient outlive a chunk. Value and gradient are those of the
plain sum.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """`sum(cross_entropy(hidden @ weight.T, labels))`; the gradients are computed in the forward pass."""

    @staticmethod
    def forward(ctx, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk_size: int):
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Half-precision sums over many chunks would lose the small ones.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        compute = _autocast_dtype(hidden)
        matrix = weight.to(compute)
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), chunk_size):
            part, wanted = hidden[start : start + chunk_size].to(compute), labels[start : start + chunk_size]
            logits = (part @ matrix.t()).float()
            largest = logits.amax(dim=-1, keepdim=True)
            chosen = logits.gather(1, wanted[:, None])
            # All in place: a second tensor of this size would double what a chunk costs.
            mass = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True)
            total += (mass.log() + largest - chosen).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            # d sum / d logits = softmax - one-hot.
            slope = logits.div_(mass)
            slope.scatter_add_(1, wanted[:, None], slope.new_full((len(wanted), 1), -1.0))
            slope = slope.to(compute)
            if grad_hidden is not None:
                grad_hidden[start : start + chunk_size] = slope @ matrix
            if grad_weight is not None and compute == torch.float32:
                grad_weight.addmm_(slope.t(), part)
            elif grad_weight is not None:
                grad_weight += slope.t() @ part
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor):
        (scale,) = grad_outputs
        grad_hidden, grad_weight = ctx.saved_tensors
        # In place, because the head's gradient is the largest tensor here; a second backward pass through the same graph
        # is refused by autograd, which sees that a saved tensor has changed.
        return (
            None if grad_hidden is None else grad_hidden.mul_(scale),
            None if grad_weight is None else grad_weight.mul_(scale),
            None,
            None,
        )


def _autocast_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _is_plain(head: nn.Module, hidden: torch.Tensor) -> bool:
    """Whether the head is nothing but its weight: no adapter, no quantised weight, no hook that brings it from elsewhere."""
    if type(head) is not nn.Linear or head.bias is not None or type(head.weight) is not nn.Parameter:
        return False
    hooked = head._forward_hooks or head._forward_pre_hooks or hasattr(head, "_hf_hook")
    return not hooked and head.weight.device == hidden.device


def summed_cross_entropy(
    head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor, chunk_size: int = 0
) -> torch.Tensor:
    """Sum over targets of the cross-entropy of `head(hidden)`, a float32 scalar.

    `hidden (N, width)` are the states that predict, `labels (N,)` local codes. `chunk_size` bounds how many rows of
    logits exist at a time; 0 computes all at once. A head that is not a plain linear layer (adapted, quantised) is
    called chunk by chunk and recomputed in the backward pass.
    """
    if not chunk_size or len(hidden) <= chunk_size:
        return F.cross_entropy(head(hidden).float(), labels, reduction="sum")
    if _is_plain(head, hidden):
        # With autocast on, custom functions are called with it on, and `_autocast_dtype` follows it.
        return _ChunkedLinearCrossEntropy.apply(hidden, head.weight, labels, chunk_size)

    def part_of(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(states).float(), wanted, reduction="sum")

    parts = [
        checkpoint(part_of, states, wanted, use_reentrant=False)
        for states, wanted in zip(hidden.split(chunk_size), labels.split(chunk_size), strict=True)
    ]
    return torch.stack(parts).sum()
