"""A name for the exact weights of a model in memory, whatever file they came from."""

import hashlib

import torch
from torch import nn


@torch.no_grad()
def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and float32 values of all parameters and persistent buffers.

    Weights that were stored in half precision and run in float32 have the same fingerprint as their float32 copy; weights
    that run in half precision have their own, because rounding changed them.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
