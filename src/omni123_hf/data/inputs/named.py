"""Sources that are called by a name: parametric objects, fetched libraries, and what others register."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omni123_hf.data.assets import Asset, parametric_assets
from omni123_hf.data.inputs.base import InputOptions
from omni123_hf.data.sources import SOURCES, iter_assets
from omni123_hf.errors import Omni123Error


PARAMETRIC = "parametric"
Reader = Callable[[InputOptions], Iterable[Asset]]
_REGISTERED: dict[str, Reader] = {}


def register_source(name: str, reader: Reader) -> None:
    """Let `read_source(name, ...)` call `reader`; a name that is taken raises `Omni123Error`."""
    if name in source_names():
        raise Omni123Error(f"the source name {name!r} is taken")
    _REGISTERED[name] = reader


def source_names() -> list[str]:
    """The names that are known."""
    return [PARAMETRIC, *SOURCES, *_REGISTERED]


def read_named(name: str, options: InputOptions) -> list[Asset]:
    """Assets of a named source, categories taking turns, so that a small data set still has all of them."""
    if name == PARAMETRIC:
        try:
            return [*parametric_assets(options.per_category or 100, options.seed)[: options.limit]]
        except ModuleNotFoundError as error:
            raise Omni123Error(
                f"parametric objects need {error.name}; install it with: pip install 'omni123-hf[data]'"
            ) from error
    if name in _REGISTERED:
        return take_turns(list(_REGISTERED[name](options)), options)
    if name not in SOURCES:
        raise Omni123Error(
            f"unknown source {name!r}; choose from {', '.join(source_names())}, or give a path or a Hub id"
        )
    folder = options.raw / name
    if not folder.is_dir():
        raise Omni123Error(f"{folder} does not exist; run 'omni123 data fetch {name} --out {options.raw}' first")
    return take_turns(list(iter_assets(name, folder)), options)


def take_turns(assets: Sequence[Any], options: InputOptions) -> list[Any]:
    """At most `per_category` of each category and `limit` in all, categories taking turns."""
    by_category: dict[str, list[Any]] = {}
    for asset in assets:
        by_category.setdefault(asset.category, []).append(asset)
    ranked = [
        (position, category, asset)
        for category, members in by_category.items()
        for position, asset in enumerate(members[: options.per_category])
    ]
    ranked.sort(key=lambda entry: entry[:2])
    return [asset for _, _, asset in ranked[: options.limit]]
