"""What one editing pair becomes: both sides in one frame, labelled at the **same** query points.

Shared queries make the change of every point known: occupancy of the source against that of the target. Half of the
points near a surface lie near each of the two surfaces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import trimesh

from omni123_hf.data.assets import asset_rng
from omni123_hf.data.editing.pair_specs import Captions, OpenedPair, PairSpec
from omni123_hf.data.editing.records import EditPair
from omni123_hf.data.editing.regions import DIFFERENCE_RESOLUTION, grid_points, region_from_grids
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepared_views import render_views
from omni123_hf.data.records import CAPTION_LEVELS, AssetRecord
from omni123_hf.data.store import asset_hash
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.geometry.sampling import sample_queries, sample_surface
from omni123_hf.geometry.solid import SolidLabeler
from omni123_hf.geometry.watertight import make_watertight


SIDES = ("source", "target")
# A measured change below this share of both shapes together is noise of the conversion, or no edit of the shape.
MIN_CHANGED_SHARE = 0.002

PAIR_CONFIG = PreparationConfig(
    sharp_points=0, truncation=0.0, random_views=0, filters=None, round_trip_resolution=0, shard_size=50
)


@dataclass
class PreparedPair:
    """A pair without its index, and for each side its record (without index) and arrays, named as `data.store.ARRAYS`."""

    pair: EditPair
    records: tuple[AssetRecord, AssetRecord]
    arrays: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def check_config(config: PreparationConfig) -> None:
    """Pairs have the four plain arrays only; a configuration that asks for more raises `Omni123Error`."""
    sizes = config.sizes
    if (
        sizes.sharp_points
        or sizes.signed_distance
        or sizes.random_views
        or sizes.view_geometry
        or config.filters
        or config.round_trip_resolution
    ):
        raise Omni123Error(
            "pairs are prepared without sharp points, signed distances, random views, depth and normals of views, filters and round trip;"
            " start from data.editing.prepare_pair.PAIR_CONFIG"
        )


def prepare_pair(spec: PairSpec, config: PreparationConfig = PAIR_CONFIG) -> PreparedPair:
    """Open, check, label, sample and render both sides of a pair.

    Depends on the pair and the configuration only. A pair that cannot be used raises `RejectedError`: "no_change" when
    the shapes agree, "outside_region" when they differ where its exact region says that they agree, and the reasons of
    single assets.
    """
    rng = asset_rng("samples", spec.id, config.seed)
    opened = spec.open()
    solids = [_solid(mesh, config) for mesh in (opened.source, opened.target)]
    labelers = [SolidLabeler(solid, resolution=config.flood_resolution) for solid in solids]
    for side, labeler in zip(SIDES, labelers, strict=True):
        if labeler.volume / (2 * FIELD_BOUND) ** 3 < config.min_solid_share:
            raise RejectedError("too_thin", f"the {side} has almost no volume")
    surfaces = [sample_surface(solid, config.surface_points, rng) for solid in solids]
    around = np.concatenate([points for points, _ in surfaces])
    queries = sample_queries(around, config.queries, rng).astype(np.float16)
    inside = [labeler.occupancy(queries.astype(np.float64)) for labeler in labelers]
    pair = _with_region(opened.pair, labelers)
    pair = _with_agreement(pair, queries, inside[0] != inside[1])
    arrays = []
    for mesh, (points, normals), labels in zip((opened.source, opened.target), surfaces, inside, strict=True):
        side_arrays: dict[str, np.ndarray] = {
            "surface": np.concatenate([points, normals], axis=1).astype(np.float16),
            "queries": queries,
            "occupancy": np.packbits(labels),
            "views": render_views(mesh, config.view_size, config.supersample),
        }
        arrays.append(side_arrays)
    records = [
        _record(opened, pair, side, captions, each, labeler.method)
        for side, captions, each, labeler in zip(
            SIDES, (opened.source_captions, opened.target_captions), arrays, labelers, strict=True
        )
    ]
    return PreparedPair(pair, (records[0], records[1]), (arrays[0], arrays[1]))


def _solid(mesh: trimesh.Trimesh, config: PreparationConfig) -> trimesh.Trimesh:
    if len(mesh.faces) > config.max_faces:
        raise RejectedError("too_many_faces", f"{len(mesh.faces)} faces, more than {config.max_faces}")
    if config.solid == "flood":
        return mesh
    return make_watertight(mesh, config.resolution, max_sheet_share=config.max_sheet_share).mesh


def _with_region(pair: EditPair, labelers: list[SolidLabeler]) -> EditPair:
    """The pair with its region and changed share: as given when exact, otherwise measured on a grid."""
    if pair.region is not None and pair.changed_share is not None:
        return pair
    points = grid_points(DIFFERENCE_RESOLUTION, FIELD_BOUND)
    source, target = (labeler.occupancy(points).reshape((DIFFERENCE_RESOLUTION,) * 3) for labeler in labelers)
    share = float((source ^ target).sum() / max((source | target).sum(), 1))
    if share < MIN_CHANGED_SHARE:
        raise RejectedError("no_change", f"source and target differ in {share:.2%} of their volume")
    return replace(pair, region=region_from_grids(source, target, FIELD_BOUND), changed_share=round(share, 6))


def _with_agreement(pair: EditPair, queries: np.ndarray, changed: np.ndarray) -> EditPair:
    """The pair with the share of changed queries outside its region; an exact region must leave none."""
    assert pair.region is not None
    outside = int((changed & ~pair.region.contains(queries)).sum())
    if outside and pair.region.exact:
        raise RejectedError("outside_region", f"{outside} of {len(queries)} points change outside the exact region")
    qa = {
        "changed_queries": round(float(changed.mean()), 6),
        "changed_outside_region": round(outside / len(queries), 6),
    }
    return replace(pair, attributes={**pair.attributes, "qa": qa})


def _record(
    opened: OpenedPair, pair: EditPair, side: str, captions: Captions, arrays: dict[str, np.ndarray], method: str
) -> AssetRecord:
    texts = {level: list(captions[level]) for level in CAPTION_LEVELS}
    return AssetRecord(
        # One shape may stand in many pairs, each time in another frame.
        id=f"{pair.id}/{side}",
        source="editing",
        licence=pair.licence,
        attribution=pair.attribution,
        category=opened.category,
        captions=texts,
        split=pair.split,
        attributes={"pair": pair.id, "side": side, "asset": getattr(pair, side).id, "labels": method},
        content_hash=asset_hash(arrays, texts),
    )
