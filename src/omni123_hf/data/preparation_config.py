"""Every choice of data preparation in one place, with the presets that have a name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from omni123_hf.data.store import StoreSizes
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.filters import FilterConfig
from omni123_hf.geometry.loading import LoadLimits


MIB = 2**20

# Least and greatest value of each setting. The upper ones only catch slips: what they allow may still not fit a machine.
RANGES: dict[str, tuple[float, float]] = {
    "surface_points": (1, 10_000_000),
    "sharp_points": (0, 10_000_000),
    "queries": (8, 100_000_000),
    "truncation": (0.0, 2.0),
    "view_size": (1, 4096),
    "random_views": (0, 1000),
    "supersample": (1, 16),
    "seed": (0, 2**63 - 1),
    "resolution": (8, 2048),
    "flood_resolution": (8, 2048),
    "max_sheet_share": (0.0, 1.0),
    "min_solid_share": (0.0, 1.0),
    "max_faces": (1, 10**9),
    "round_trip_resolution": (0, 2048),
    "min_volume_iou": (0.0, 1.0),
    "max_chamfer": (0.0, 2.0),
    "seconds_per_asset": (0.001, 604_800.0),
    "memory_per_asset_mib": (1, 2**24),
    "shard_size": (1, 100_000),
}


@dataclass(frozen=True)
class PreparationConfig:
    """How assets are prepared. Lengths are in the normalised frame (longest side 1.92).

    Sizes: surface_points, queries and view_size are those of the store; sharp_points are further surface samples with a
    preference for sharp edges, random_views further views with sampled cameras and lights (0: none of them).
    view_geometry: depth and normals of every view. truncation: signed distances of the queries up to this length, 0 for
    occupancy alone. supersample: samples along a pixel's side. seed: of all sampling and of the splits.

    solid: "watertight" makes a closed mesh first and samples that; "flood" samples the mesh as it is and labels open
    ones by a voxel flood. resolution, flood_resolution: voxels a side for the two. max_sheet_share: of the surface that
    encloses nothing, above which a mesh is refused (watertight). min_solid_share: least solid volume as a share of the
    field box ±1.05. max_faces: most faces before anything is done. filters: of paper §3.3, None for none.

    round_trip_resolution: points a side of the grid of the check that extracts the solid again, 0 for no check; it demands min_volume_iou
    and max_chamfer. captions: "given", or "template", which fills the lengths that an asset does not bring.
    allow_unknown_licence: keep assets whose licence is not stated.

    limits: what a file may hold. seconds_per_asset, memory_per_asset_mib: of the process that works on one asset.
    shard_size: assets a shard, the unit of work that a stopped run may lose.
    """

    surface_points: int = 2048
    sharp_points: int = 1024
    queries: int = 8192
    truncation: float = 0.1
    view_size: int = 64
    random_views: int = 4
    view_geometry: bool = False
    supersample: int = 2
    seed: int = 0
    solid: Literal["watertight", "flood"] = "watertight"
    resolution: int = 256
    flood_resolution: int = 128
    max_sheet_share: float = 1.0
    min_solid_share: float = 0.0005
    max_faces: int = 1_000_000
    filters: FilterConfig | None = field(default_factory=FilterConfig)
    round_trip_resolution: int = 256
    min_volume_iou: float = 0.97
    max_chamfer: float = 0.02
    captions: Literal["given", "template"] = "given"
    allow_unknown_licence: bool = False
    limits: LoadLimits = field(default_factory=LoadLimits)
    seconds_per_asset: float = 120.0
    memory_per_asset_mib: int = 4096
    shard_size: int = 100

    def __post_init__(self) -> None:
        _check_types(self, asdict(self) | {"filters": self.filters, "limits": self.limits}, "")
        for name, (least, greatest) in RANGES.items():
            if not least <= getattr(self, name) <= greatest:
                raise Omni123Error(f"{name} must be from {least} to {greatest}, got {getattr(self, name)}")
        if self.solid == "flood" and self.round_trip_resolution:
            raise Omni123Error("a round trip needs a closed mesh: use solid watertight, or round_trip_resolution 0")
        self.sizes  # noqa: B018 (array sizes are checked before any work is done)

    @property
    def sizes(self) -> StoreSizes:
        """Array sizes of the store."""
        return StoreSizes(
            self.surface_points,
            self.queries,
            self.view_size,
            self.sharp_points,
            self.truncation > 0,
            self.random_views,
            self.view_geometry,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them."""
        # Left out where it is off: data sets from before it was there have the settings that they were begun with.
        return {name: value for name, value in asdict(self).items() if name != "view_geometry" or value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: PreparationConfig | None = None) -> PreparationConfig:
        """`base` (the default configuration if not given) with other values; unknown names raise `Omni123Error`."""
        return _replaced(base or cls(), values, "")


def _replaced(base: Any, values: Mapping[str, Any], where: str) -> Any:
    known = {f.name for f in fields(base)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise Omni123Error(
            f"unknown settings {', '.join(where + u for u in unknown)}; known: {', '.join(sorted(known))}"
        )
    changes = dict(values)
    for name, nested in (("filters", FilterConfig), ("limits", LoadLimits)):
        if isinstance(changes.get(name), Mapping):
            changes[name] = _replaced(getattr(base, name) or nested(), changes[name], f"{name}.")
    _check_types(base, changes, where)
    return replace(base, **changes)


def _check_types(owner: Any, values: Mapping[str, Any], where: str) -> None:
    """Raise `Omni123Error` naming the first of `values` that is not of the type of that field of `owner`."""
    types = get_type_hints(type(owner))
    for name, value in values.items():
        if not _is_of(value, types[name]):
            raise Omni123Error(f"{where}{name} must be {_type_words(types[name])}, got {value!r:.100}")


def _is_of(value: Any, wanted: Any) -> bool:
    if get_origin(wanted) is Literal:
        return value in get_args(wanted)
    if get_origin(wanted) in (Union, UnionType):
        return any(_is_of(value, each) for each in get_args(wanted))
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    # A bool is an int to Python.
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))


def _type_words(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return " or ".join(map(str, get_args(wanted)))
    if get_origin(wanted) in (Union, UnionType):
        return " or ".join(_type_words(each) for each in get_args(wanted))
    # YAML reads 1e-3 as text.
    words = {int: "a whole number", float: "a number (as 0.001 or 1.0e-3)", bool: "true or false", NoneType: "null"}
    return words.get(wanted, "settings as 'name: value' lines")


# What the shipped checkpoints were trained on: meshes as they are, labels by flood, nothing filtered.
MINI = PreparationConfig(
    sharp_points=0, truncation=0.0, random_views=0, solid="flood", min_solid_share=0.002, max_faces=300_000,
    filters=None, round_trip_resolution=0, seconds_per_asset=60.0,
)  # fmt: skip

# Samples as large tokenizers want them: 100,000 surface points and 500,000 labelled points an asset, views of 256² with
# depth and normals.
FULL = PreparationConfig(
    surface_points=80_000, sharp_points=20_000, queries=500_000, view_size=256, random_views=8, view_geometry=True,
    shard_size=20,
)  # fmt: skip

PRESETS: dict[str, PreparationConfig] = {"default": PreparationConfig(), "mini": MINI, "full": FULL}


def load_config(preset: str = "default", path: Path | None = None, **changes: Any) -> PreparationConfig:
    """A preset, then the settings of a YAML file, then `changes`. Bad names and values raise `Omni123Error`."""
    if preset not in PRESETS:
        raise Omni123Error(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    config = PRESETS[preset]
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Omni123Error(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from error
        if not isinstance(values, Mapping):
            raise Omni123Error(f"{path} must hold settings as 'name: value' lines")
        config = PreparationConfig.from_dict(values, config)
    return PreparationConfig.from_dict(changes, config)
