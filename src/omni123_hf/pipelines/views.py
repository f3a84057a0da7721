"""Names of views, as a caller gives them, to view tokens."""

import torch

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import CANONICAL_VIEWS


def view_index(name: str) -> int:
    """Number of a canonical view. Raises `Omni123Error` for another name."""
    if name not in CANONICAL_VIEWS:
        raise Omni123Error(f"there is no view {name!r}; use one of {', '.join(CANONICAL_VIEWS)}")
    return CANONICAL_VIEWS.index(name)


def view_indices(names: str | list[str], rows: int) -> torch.Tensor:
    """(rows,) numbers of canonical views; one name stands for all rows. Raises `Omni123Error`."""
    listed = [names] if isinstance(names, str) else list(names)
    if len(listed) not in (1, rows):
        raise Omni123Error(f"there are {len(listed)} views for {rows} inputs; give one for all, or one for each")
    return torch.tensor([view_index(name) for name in listed]).expand(rows)


def check_distinct(names: list[str], least: int = 1) -> list[str]:
    """Views of one object, each once. Raises `Omni123Error` for too few, unknown or repeated ones."""
    for name in names:
        view_index(name)
    if len(names) < least or len(set(names)) != len(names):
        raise Omni123Error(f"give at least {least} view(s), each once; got {', '.join(names) or 'none'}")
    return names
