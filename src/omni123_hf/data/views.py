"""Stored views as model input."""

import numpy as np
import torch


def pixels_from_views(views: np.ndarray) -> torch.Tensor:
    """RGBA uint8 `(..., H, W, 4)` on white to pixels `(..., 3, H, W)` in [-1, 1]."""
    rgb = torch.from_numpy(np.ascontiguousarray(views[..., :3])).movedim(-1, -3)
    return rgb.float() / 127.5 - 1
