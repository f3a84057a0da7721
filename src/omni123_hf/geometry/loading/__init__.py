"""Reading meshes of unknown origin: bounded in memory, confined to one folder, and with one kind of refusal.

Formats, frames, what is kept and the reasons of refusals are listed in `docs/data_formats.md`.
"""

from .limits import LoadBudget, LoadLimits
from .registry import load_mesh, register_format, supported_suffixes


__all__ = ["LoadBudget", "LoadLimits", "load_mesh", "register_format", "supported_suffixes"]
