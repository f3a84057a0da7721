"""What one asset becomes (paper §3.3): checked, normalised, made solid, filtered, sampled, labelled, rendered, worded.

The result depends on the asset and the configuration only. Every figure on the way goes into the record's "qa".
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import trimesh
from PIL import Image

from omni123_hf.data.assets import Asset, OpenedAsset, asset_rng, open_asset
from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepared_views import render_fixed_views, render_random_views, render_views
from omni123_hf.data.records import CAPTION_LEVELS, AssetRecord
from omni123_hf.data.splits import split_of
from omni123_hf.data.store import asset_hash
from omni123_hf.errors import RejectedError
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.geometry.extraction import EmptySurfaceError
from omni123_hf.geometry.filters import check_filters, reject_failed
from omni123_hf.geometry.health import mesh_health
from omni123_hf.geometry.normalization import FIELD_BOUND, normalize_mesh
from omni123_hf.geometry.round_trip import round_trip
from omni123_hf.geometry.sampling import sample_queries, sample_surface
from omni123_hf.geometry.sharp_edges import sample_sharp_edges
from omni123_hf.geometry.signed_distance import SolidField
from omni123_hf.geometry.solid import SolidLabeler
from omni123_hf.geometry.watertight import make_watertight


if TYPE_CHECKING:
    from omni123_hf.data.captioning.conversation import CaptionRequest
    from omni123_hf.data.captioning.result import CaptionResult, Metadata


class Captioner(Protocol):
    """Words for pictures; `ConversationCaptioner`, `CachedCaptioner` and `GivenCaptioner` of `data.captioning` are. It is
    sent to the workers."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the captions besides the asset, as plain JSON: a run goes on only with the same. Where captions have
        scores of alignment, "alignment" names scorer and threshold."""
        ...

    @property
    def view_size(self) -> int:
        """Pixels a side of the renders that `caption` is to see."""
        ...

    def caption(self, request: CaptionRequest) -> CaptionResult:
        """Captions at three lengths; an asset that cannot be described raises `RejectedError`."""
        ...


# Share of an asset's time after which no caption is waited for. A busy model must stop the run before the sandbox ends
# the asset, which would reject it for good; the rest is for a name lookup that hangs, and for sending the arrays.
CAPTION_TIME_SHARE = 0.8
# Share of the surface that bounds parts thinner than a grid step, from which a round trip that fails is put down to them.
THIN_SHARE = 0.1


@dataclass
class PreparedAsset:
    """One row of a store to be: `record` without its index, `arrays` named as in `StoreSizes.names`.

    method: of labelling, "winding" or "flood". seconds: time of each step, which is no part of the data.
    """

    record: AssetRecord
    arrays: dict[str, np.ndarray]
    method: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)


def prepare_asset(
    asset: Asset,
    config: PreparationConfig,
    rng: np.random.Generator | None = None,
    captioner: Captioner | None = None,
) -> PreparedAsset:
    """One asset as arrays and a record.

    rng: of the surface samples and queries; by default a generator that depends on the configuration's seed and the
    asset's id only. captioner: its captions replace those of the asset. An unusable asset raises `RejectedError`; a
    captioner that gives no answer in `CAPTION_TIME_SHARE` of the asset's time raises `BackendError`, no asset's fault.
    """
    caption_deadline = time.monotonic() + CAPTION_TIME_SHARE * config.seconds_per_asset
    rng = asset_rng("samples", asset.id, config.seed) if rng is None else rng
    clock = _Clock()
    if asset.licence == UNKNOWN_LICENCE and not config.allow_unknown_licence:
        raise RejectedError("unknown_licence", "its licence is not stated; state it, or allow unknown licences")
    with clock.step("load"):
        opened = open_asset(asset, config.limits)
        mesh, transform = normalize_mesh(_checked(opened.mesh, config))
    qa: dict[str, Any] = {"mesh": mesh_health(mesh).to_dict()}
    with clock.step("filters"):
        if config.filters is not None:
            findings = check_filters(mesh, config.filters)
            qa["filters"] = [finding.to_dict() for finding in findings]
            reject_failed(findings)
    with clock.step("solid"):
        solid, qa["solid"] = _solid(mesh, config)
        labeler = SolidLabeler(solid, resolution=config.flood_resolution)
        qa["solid"]["volume"] = labeler.volume
        _check_solid(labeler, config)
    with clock.step("samples"):
        solid_field = SolidField(labeler)
        arrays = _samples(solid, solid_field, config, rng, asset_rng("sharp", asset.id, config.seed))
    with clock.step("round_trip"):
        if config.round_trip_resolution:
            qa["round_trip"] = _round_trip(solid, solid_field, config)
    attributes = dict(opened.attributes)
    with clock.step("views"):
        view_arrays, cameras = _views(mesh, config, asset_rng("views", asset.id, config.seed))
        arrays |= view_arrays
        if cameras:
            attributes["random_views"] = cameras
    with clock.step("captions"):
        if captioner is None:
            captions, category, provenance = _given_captions(opened, config)
        else:
            pictures = caption_views(mesh, captioner.view_size, config.supersample)
            captions, category, provenance, scores = _asked_captions(
                opened, config, captioner, pictures, caption_deadline
            )
            if scores:
                qa["alignment"] = (captioner.identity.get("alignment") or {}) | {"scores": scores}
    attributes |= provenance
    attributes["labels"] = labeler.method
    attributes["scale"] = transform.scale
    if opened.combination is not None:
        attributes["heldout_combination"] = opened.combination
    attributes["qa"] = qa
    record = AssetRecord(
        id=opened.id,
        source=opened.source,
        licence=opened.licence,
        attribution=opened.attribution,
        category=category,
        captions=captions,
        split="heldout_combination" if opened.combination is not None else split_of(opened.split_key, config.seed),
        # Plain JSON values from here on: what is handed on is what is written.
        attributes=json.loads(json.dumps(attributes, default=_json_value)),
        content_hash=asset_hash(arrays, captions),
    )
    return PreparedAsset(record, arrays, labeler.method, clock.seconds)


def is_repaired(record: AssetRecord) -> bool:
    """Whether the asset's mesh had to be changed to become a solid."""
    return bool(record.attributes.get("qa", {}).get("solid", {}).get("reason"))


def _checked(mesh: trimesh.Trimesh, config: PreparationConfig) -> trimesh.Trimesh:
    """Refuse what nothing later can take, with a reason that can be counted."""
    if not len(mesh.faces):
        raise RejectedError("empty", "the mesh has no faces")
    if len(mesh.faces) > config.max_faces:
        raise RejectedError("too_many_faces", f"{len(mesh.faces)} faces, more than {config.max_faces}")
    if not np.isfinite(mesh.vertices).all():
        raise RejectedError("not_finite", "the mesh has vertices that are not finite")
    if len(np.unique(mesh.faces)) < len(mesh.vertices):
        # Vertices of no face do not count for the scale, so they may lie anywhere after it.
        mesh = mesh.copy()
        mesh.remove_unreferenced_vertices()
    return mesh


def _solid(mesh: trimesh.Trimesh, config: PreparationConfig) -> tuple[trimesh.Trimesh, dict[str, Any]]:
    """The mesh to sample and label, and how it came about."""
    if config.solid == "flood":
        return mesh, {"method": "as_given", "reason": ""}
    result = make_watertight(mesh, config.resolution, max_sheet_share=config.max_sheet_share)
    return result.mesh, {
        "method": result.method,
        "reason": result.reason,
        "sheet_share": result.sheet_share,
        "bridged_share": result.bridged_share,
        "dropped_shells": result.dropped_shells,
    }


def _check_solid(labeler: SolidLabeler, config: PreparationConfig) -> None:
    share = labeler.volume / (2 * FIELD_BOUND) ** 3
    if share < config.min_solid_share:
        raise RejectedError("too_thin", f"solid share {share:.5f} is below {config.min_solid_share}")


def _samples(
    solid: trimesh.Trimesh,
    solid_field: SolidField,
    config: PreparationConfig,
    rng: np.random.Generator,
    sharp_rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    points, normals = sample_surface(solid, config.surface_points, rng)
    # Labels belong to the points as stored: rounding to float16 moves a point by up to 0.0005, across a thin wall.
    queries = sample_queries(points, config.queries, rng).astype(np.float16)
    places = queries.astype(np.float64)
    arrays: dict[str, np.ndarray] = {
        "surface": np.concatenate([points, normals], axis=1).astype(np.float16),
        "queries": queries,
    }
    if config.truncation:
        distances = solid_field.signed_distance(places, config.truncation)
        arrays["occupancy"] = np.packbits(distances > 0)
        # In half precision a distance just inside would round to zero, and zero is outside.
        smallest = np.finfo(np.float16).smallest_subnormal
        arrays["signed_distance"] = np.where(
            distances > 0, np.maximum(distances, np.float32(smallest)), distances
        ).astype(np.float16)
    else:
        arrays["occupancy"] = np.packbits(solid_field.occupancy(places))
    if config.sharp_points:
        edges, edge_normals = sample_sharp_edges(solid, config.sharp_points, sharp_rng)
        rest, rest_normals = sample_surface(solid, config.sharp_points - len(edges), sharp_rng)
        sharp = np.concatenate([np.concatenate([edges, edge_normals], 1), np.concatenate([rest, rest_normals], 1)])
        arrays["sharp"] = sharp.astype(np.float16)
        arrays["sharp_flags"] = np.packbits(np.arange(config.sharp_points) < len(edges))
    return arrays


def _round_trip(solid: trimesh.Trimesh, solid_field: SolidField, config: PreparationConfig) -> dict[str, Any]:
    resolution = config.round_trip_resolution
    try:
        result = round_trip(solid, resolution, field=solid_field)
    except EmptySurfaceError as error:
        detail = f"no point of a grid of {resolution} points a side falls into it"
        raise RejectedError("round_trip_thin", detail) from error
    failed = []
    if result.volume_iou < config.min_volume_iou:
        failed.append(
            ("round_trip_volume", f"its volume IoU is {result.volume_iou:.4f}, below {config.min_volume_iou}")
        )
    if result.chamfer > config.max_chamfer:
        failed.append(("round_trip_surface", f"its surface is {result.chamfer:.4f} off, above {config.max_chamfer}"))
    if failed:
        reason, detail = failed[0]
        if result.thin_share >= THIN_SHARE:
            reason = "round_trip_thin"
            detail += f"; {result.thin_share:.0%} of its surface bounds parts thinner than a step of the grid"
        raise RejectedError(reason, f"extracted again, {detail}")
    return result.to_dict()


def _views(
    mesh: trimesh.Trimesh, config: PreparationConfig, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The arrays of all views, and cameras and lights of the random ones."""
    fixed = render_fixed_views(mesh, config.view_size, config.supersample)
    arrays = {"views": fixed.colors}
    settings: list[dict[str, Any]] = []
    if config.view_geometry:
        arrays |= {"view_depth": fixed.depth, "view_normals": fixed.normals}
    if config.random_views:
        views, settings = render_random_views(mesh, config.random_views, config.view_size, config.supersample, rng)
        arrays["random_views"] = views.colors
        if config.view_geometry:
            arrays |= {"random_view_depth": views.depth, "random_view_normals": views.normals}
    return arrays, settings


def caption_views(mesh: trimesh.Trimesh, size: int, supersample: int) -> dict[str, Image.Image]:
    """The seven fixed views of a normalised mesh as RGB pictures of `size` pixels a side, for a model to look at."""
    views = render_views(mesh, size, supersample)
    return {
        name: Image.fromarray(np.ascontiguousarray(view[..., :3])) for name, view in zip(ALL_VIEWS, views, strict=True)
    }


def _asked_captions(
    opened: OpenedAsset,
    config: PreparationConfig,
    captioner: Captioner,
    pictures: Mapping[str, Image.Image],
    deadline: float,
) -> tuple[dict[str, list[str]], str, dict[str, Any], dict[str, list[float]]]:
    """Captions, category, attributes that say where they come from, and scores of alignment (level to one a caption)."""
    from omni123_hf.data.captioning.backends import BackendError
    from omni123_hf.data.captioning.conversation import CaptionRequest
    from omni123_hf.data.captioning.deadline import answers_until
    from omni123_hf.data.captioning.given import GivenCaptioner

    given = {level: list(texts) for level, texts in opened.captions.items()}
    category, source = "", dict[str, Any]()
    writes = not isinstance(captioner, GivenCaptioner)
    if not writes:
        given, category, source = _given_captions(opened, config)
    is_late = time.monotonic() >= deadline
    try:
        with answers_until(deadline):
            result = captioner.caption(CaptionRequest(opened.id, pictures, _metadata(opened), given))
    except BackendError as error:
        if is_late:
            # No endpoint could have answered: stopping the run would stop it here every time.
            detail = "preparing it left no time for captions; simplify this asset or raise seconds_per_asset"
            raise RejectedError("timeout", detail) from error
        raise
    if writes:
        category = result.category
        source = {"caption_source": "model", "captioning": result.to_dict()["provenance"] | {"given": given}}
    return result.captions, category, source, result.alignment


def _given_captions(
    opened: OpenedAsset, config: PreparationConfig
) -> tuple[dict[str, list[str]], str, dict[str, Any]]:
    """Captions, category and attributes of the asset's own words and of templates."""
    given = {level: list(texts) for level, texts in opened.captions.items()}
    if config.captions == "template" and not all(given[level] for level in CAPTION_LEVELS):
        from omni123_hf.data.captioning.template import describe_metadata

        metadata = _metadata(opened)
        if metadata.name:
            words = describe_metadata(opened.id, metadata, opened.category).captions
            filled = {level: given[level] or words[level] for level in CAPTION_LEVELS}
            return (
                filled,
                opened.category,
                {"caption_source": f"{opened.attributes.get('caption_source', 'given')}+template"},
            )
    if not any(given.values()):
        raise RejectedError("no_caption", "nothing names it; give it a caption or a telling file name")
    return given, opened.category, {}


def _metadata(opened: OpenedAsset) -> Metadata:
    from omni123_hf.data.captioning.grounding import grounding

    short = opened.captions["short"] or opened.captions["medium"] or opened.captions["long"]
    return grounding(short[0] if short else "", opened.category, opened.attributes)


def _json_value(value: Any) -> Any:
    """NumPy scalars and arrays among an asset's attributes as JSON values."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"attribute of type {type(value).__name__} is not JSON")
