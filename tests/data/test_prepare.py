from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import trimesh
from preparation_assets import CAPTIONS, SMALL, WHOLE, FakeAsset

from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.captioning.result import CaptionResult, Provenance
from omni123_hf.data.preparation_config import MINI, PRESETS, PreparationConfig, load_config
from omni123_hf.data.prepare import ParametricSpec, parametric_assets, prepare_asset, prepare_dataset
from omni123_hf.data.statistics import store_statistics
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.cameras import ALL_VIEWS, Camera, get_camera
from omni123_hf.geometry.filters import FilterConfig
from omni123_hf.geometry.rendered_view import decode_normals


def test_prepare_asset_labels_a_sphere_at_the_stored_points():
    prepared = prepare_asset(FakeAsset("fake/ball"), replace(MINI, queries=4096))
    radius = np.linalg.norm(prepared.arrays["queries"].astype(np.float64), axis=1)
    inside = np.unpackbits(prepared.arrays["occupancy"]).astype(bool)
    assert inside[radius < 0.93].all() and not inside[radius > 0.961].any()
    assert prepared.method == "winding"
    assert prepared.arrays["views"][:, 32, 32, 3].min() == 255
    assert prepared.record.captions == CAPTIONS


def test_the_preset_mini_still_gives_the_shipped_data():
    # Content hash of this asset in the data set that the shipped checkpoint was trained on.
    prepared = prepare_asset(ParametricSpec("barrel", 0), MINI)
    assert prepared.record.content_hash.startswith("0674648f5e0d4491")


def test_everything_that_the_default_adds():
    prepared = prepare_asset(FakeAsset("fake/box", "box"), replace(WHOLE, queries=2048))
    arrays, attributes = prepared.arrays, prepared.record.attributes
    inside = np.unpackbits(arrays["occupancy"]).astype(bool)
    distance = arrays["signed_distance"].astype(np.float64)
    places = arrays["queries"].astype(np.float64)
    outside = np.abs(places) - np.array([0.48, 0.96, 0.48])
    exact = np.where((outside < 0).all(axis=1), -outside.max(axis=1), -np.linalg.norm(outside.clip(0), axis=1)).clip(
        -0.1, 0.1
    )
    np.testing.assert_allclose(distance, exact, atol=2e-4)
    assert ((distance > 0) == inside).all()
    assert np.unpackbits(arrays["sharp_flags"]).all()
    on_edge = (np.abs(np.abs(arrays["sharp"][:, :3].astype(float)) - [0.48, 0.96, 0.48]) < 1e-3).sum(axis=1)
    assert (on_edge >= 2).all()
    assert arrays["random_views"].shape == (2, 16, 16, 4) and arrays["random_views"][..., 3].max(axis=(1, 2)).min() > 0
    assert len(attributes["random_views"]) == 2 and attributes["random_views"][0]["lighting"]["lights"]
    qa = attributes["qa"]
    assert qa["solid"]["method"] == "closed" and abs(qa["solid"]["volume"] - 0.96 * 1.92 * 0.96) < 1e-6
    assert qa["round_trip"]["volume_iou"] > 0.97 and all(finding["passed"] for finding in qa["filters"])
    assert {"load", "filters", "solid", "samples", "round_trip", "views"} <= set(prepared.seconds)


def test_depth_and_normals_lie_on_the_object_in_every_view():
    config = replace(SMALL, view_geometry=True, random_views=2, view_size=32)
    prepared = prepare_asset(FakeAsset("fake/box", "box"), config)
    arrays = prepared.arrays
    cameras = [get_camera(name) for name in ALL_VIEWS]
    cameras += [Camera.from_dict(view["camera"]) for view in prepared.record.attributes["random_views"]]
    depth = np.concatenate([arrays["view_depth"], arrays["random_view_depth"]])
    normals = np.concatenate([arrays["view_normals"], arrays["random_view_normals"]])
    silhouette = np.concatenate([arrays["views"], arrays["random_views"]])[..., 3]
    assert depth.dtype == np.float16 and normals.dtype == np.uint8 and len(cameras) == len(depth) == 9
    for camera, each, normal, coverage in zip(cameras, depth, decode_normals(normals), silhouette, strict=True):
        assert ((coverage > 0) == np.isfinite(each)).all() and (np.isfinite(each) == normal.any(axis=-1)).all()
        row, column = np.nonzero(coverage == 255)
        xy = np.stack([(column + 0.5) / 16 - 1, 1 - (row + 0.5) / 16], axis=1)
        points = camera.unproject(xy, each[row, column].astype(float))
        # On the surface of the box, whose sides look along the axes, and towards the camera.
        to_side = np.abs(np.abs(points) - [0.48, 0.96, 0.48])
        side = np.abs(normal[row, column]).argmax(axis=1)
        assert len(row) > 50 and (to_side[np.arange(len(row)), side] < 2e-3).all()
        assert (np.abs(normal[row, column]).max(axis=1) > 0.99).all()
        assert (normal[row, column] @ np.asarray(camera.direction) > 0).all()
        assert (np.sign(points) * normal[row, column] > -0.01).all()
    plain = prepare_asset(FakeAsset("fake/box", "box"), replace(config, view_geometry=False)).arrays
    assert set(arrays) - set(plain) == {"view_depth", "view_normals", "random_view_depth", "random_view_normals"}
    assert all((plain[name] == arrays[name]).all() for name in plain)


def test_what_an_asset_takes_by_preset():
    sizes = {name: config.sizes for name, config in PRESETS.items()}
    kilobytes = {name: round(each.bytes_per_asset / 1000) for name, each in sizes.items()}
    assert kilobytes == {"default": 284, "mini": 189, "full": 14112}, kilobytes
    assert [each.view_geometry for each in sizes.values()] == [False, False, True]
    assert replace(PRESETS["default"], view_geometry=True).sizes.bytes_per_asset - sizes[
        "default"
    ].bytes_per_asset == (11 * 64 * 64 * 5)
    # A run begun before the setting was there goes on: off, it is no part of the plan.
    assert "view_geometry" not in MINI.to_dict() and PRESETS["full"].to_dict()["view_geometry"]
    assert all(PreparationConfig.from_dict(config.to_dict()) == config for config in PRESETS.values())


def test_an_open_mesh_is_repaired_and_said_to_be():
    prepared = prepare_asset(FakeAsset("fake/open", "open"), WHOLE)
    solid = prepared.record.attributes["qa"]["solid"]
    assert solid["reason"] == "open" and solid["method"] in ("winding", "flood") and prepared.method == "winding"
    assert abs(solid["volume"] - 4 / 3 * np.pi * 0.96**3) < 0.2


def test_vertices_of_no_face_do_not_matter():
    whole = prepare_asset(FakeAsset("fake/a"), WHOLE).record
    assert prepare_asset(FakeAsset("fake/a", "stray"), WHOLE).record.content_hash == whole.content_hash


def test_an_asset_is_the_same_in_any_shard_and_differs_by_seed():
    first = prepare_asset(FakeAsset("fake/a"), WHOLE).record
    again = prepare_asset(FakeAsset("fake/a"), WHOLE).record
    assert first.to_dict() == again.to_dict()
    assert first.content_hash != prepare_asset(FakeAsset("fake/a"), replace(WHOLE, seed=1)).record.content_hash


@pytest.mark.parametrize("kind, reason", [("nan", "not_finite"), ("empty", "empty"), ("thin", "too_thin")])
def test_unusable_assets_are_rejected_with_a_reason(kind, reason):
    with pytest.raises(RejectedError) as caught:
        prepare_asset(FakeAsset("fake/x", kind), SMALL)
    assert caught.value.reason == reason


def test_filters_and_the_round_trip_reject():
    with pytest.raises(RejectedError) as caught:
        prepare_asset(FakeAsset("fake/x"), replace(WHOLE, filters=FilterConfig(min_faces=10_000)))
    assert caught.value.reason == "too_few_faces"
    with pytest.raises(RejectedError) as caught:
        prepare_asset(FakeAsset("fake/x"), replace(WHOLE, min_volume_iou=0.99999))
    assert caught.value.reason == "round_trip_volume"


@dataclass(frozen=True)
class Table(FakeAsset):
    """A top of the given thickness across a foot; in its frame already."""

    thickness: float = 0.1

    def load(self) -> trimesh.Trimesh:
        parts = [trimesh.creation.box((1.92, self.thickness, 1.0)), trimesh.creation.box((0.3, 1.0, 0.3))]
        return trimesh.util.concatenate([part.subdivide() for part in parts])


@pytest.mark.parametrize("thickness, reason", [(0.2, ""), (0.01, "round_trip_thin")])
def test_parts_that_the_grid_cannot_hold_are_named(thickness, reason):
    table = Table("fake/table", thickness=thickness)
    anything = replace(WHOLE, min_volume_iou=0.0, max_chamfer=1.0, filters=None)
    lax = prepare_asset(table, anything).record.attributes["qa"]["round_trip"]
    assert (lax["thin_share"] > 0.3 and lax["volume_iou"] < 0.9) == bool(reason)
    if reason:
        with pytest.raises(RejectedError) as caught:
            prepare_asset(table, replace(WHOLE, filters=None))
        assert caught.value.reason == reason and "thinner than a step" in str(caught.value)
    else:
        assert prepare_asset(table, WHOLE).record.attributes["qa"]["round_trip"] == lax


def test_a_licence_that_is_not_stated_is_refused_unless_allowed():
    asset = FakeAsset("fake/x", licence=UNKNOWN_LICENCE)
    with pytest.raises(RejectedError) as caught:
        prepare_asset(asset, SMALL)
    assert caught.value.reason == "unknown_licence"
    assert prepare_asset(asset, replace(SMALL, allow_unknown_licence=True)).record.licence == UNKNOWN_LICENCE


def test_captions_are_given_or_filled_or_asked_for():
    bare = FakeAsset("fake/x", captions={"short": ["red ball"], "medium": [], "long": []})
    assert prepare_asset(bare, SMALL).record.captions["medium"] == []
    filled = prepare_asset(bare, replace(SMALL, captions="template")).record
    assert filled.captions["short"] == ["red ball"] and "red ball" in filled.captions["medium"][0]
    assert 40 <= len(filled.captions["long"][0].split()) <= 70
    assert filled.attributes["caption_source"] == "given+template"
    with pytest.raises(RejectedError) as caught:
        prepare_asset(FakeAsset("fake/x", captions={"short": [], "medium": [], "long": []}), SMALL)
    assert caught.value.reason == "no_caption"

    class Painter:
        """Names the colour of the middle of the front view: the pictures must reach it."""

        identity = {"model": "painter"}
        view_size = 16

        def caption(self, request):
            grey = request.views["front"].getpixel((8, 8))[0]
            words = {"short": [f"ball of {grey}"], "medium": ["a ball"], "long": ["a ball"]}
            return CaptionResult(
                request.asset_id, words, "sphere", "ball", Provenance("conversation", "painter", "v1")
            )

    record = prepare_asset(bare, SMALL, captioner=Painter()).record
    assert record.category == "sphere" and record.attributes["captioning"]["model"] == "painter"
    assert record.captions["short"] != ["ball of 255"] and record.attributes["captioning"]["given"]["short"] == [
        "red ball"
    ]


def test_bad_assets_never_stop_the_run(tmp_path):
    kinds = ["ball", "nan", "ball", "broken", "slow", "thin", "crash", "hungry", "ball"]
    config = replace(SMALL, seconds_per_asset=3.0, memory_per_asset_mib=1024)
    store = prepare_dataset([FakeAsset(f"fake/{i}", k) for i, k in enumerate(kinds)], tmp_path, 2, config, False)
    assert [r.id for r in store.records] == ["fake/0", "fake/2", "fake/8"]
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(r["id"], r["reason"]) for r in rejected] == [
        ("fake/1", "not_finite"), ("fake/3", "exception"), ("fake/4", "timeout"), ("fake/5", "too_thin"),
        ("fake/6", "crashed"), ("fake/7", "out_of_memory"),
    ]  # fmt: skip
    assert store.surface(2).shape == (64, 6) and store.views(0).shape == (7, 16, 16, 4)
    outcome = store.summary["settings"]["outcome"]
    assert (outcome["kept"], outcome["repaired"], outcome["rejected"]) == (3, 0, 6)
    assert outcome["rejected_by_reason"]["crashed"] == 1
    assert not (tmp_path / "shards").exists()


def test_a_store_with_every_optional_array_is_read_back_and_summed_up(tmp_path):
    assets = [FakeAsset("fake/ball"), FakeAsset("fake/box", "box"), FakeAsset("fake/open", "open")]
    store = prepare_dataset(assets, tmp_path, 1, WHOLE, False)
    sharp, flags = store.sharp(1)
    assert sharp.shape == (16, 6) and flags.all() and not store.sharp(0)[1].any()
    assert (store.signed_distance(0) > 0).tolist() == store.occupancy(0).tolist()
    assert store.random_views(np.array([0, 2])).shape == (2, 2, 16, 16, 4)
    values = store_statistics(tmp_path)
    assert values["outcome"] == {"kept": 2, "repaired": 1, "rejected": 0, "rejected_by_reason": {}}
    assert values["quality"]["volume_iou"]["min"] > 0.8 and "thin_walls" in values["filters"]
    assert values["arrays"]["random_views"] == [2, 16, 16, 4] and values["seconds"]["views"]["max"] > 0


def test_a_finished_run_is_opened_and_other_settings_are_refused(tmp_path):
    assets = [FakeAsset(f"fake/{i}") for i in range(2)]
    store = prepare_dataset(assets, tmp_path, 1, SMALL, False)
    before = (tmp_path / "dataset.json").stat().st_mtime_ns
    assert prepare_dataset(assets, tmp_path, 1, SMALL, False).content_hash == store.content_hash
    assert (tmp_path / "dataset.json").stat().st_mtime_ns == before
    with pytest.raises(Omni123Error, match="other assets or settings"):
        prepare_dataset(assets[:1], tmp_path, 1, SMALL, False)
    with pytest.raises(Omni123Error, match="other assets or settings"):
        prepare_dataset(assets, tmp_path, 1, replace(SMALL, seed=1), False)


def test_duplicate_ids_and_empty_lists_are_refused(tmp_path):
    with pytest.raises(Omni123Error, match="unique"):
        prepare_dataset([FakeAsset("fake/a"), FakeAsset("fake/a")], tmp_path, 1, SMALL, False)
    with pytest.raises(Omni123Error, match="no assets"):
        prepare_dataset([], tmp_path, 1, SMALL, False)
    with pytest.raises(Omni123Error, match="every asset was rejected"):
        prepare_dataset([FakeAsset("fake/a", "nan")], tmp_path, 1, SMALL, False)


def test_parametric_objects_are_prepared_from_category_and_seed():
    specs = parametric_assets(2, seed=5)
    assert specs[0].id.endswith("/000005") and len({s.id for s in specs}) == len(specs)
    prepared = prepare_asset(specs[0], SMALL)
    assert prepared.record.source == "parametric" and prepared.record.attributes["seed"] == 5
    assert prepared.method == "winding"
    with pytest.raises(Omni123Error, match="unknown categor"):
        prepare_asset(ParametricSpec("no such thing", 0), SMALL)


def test_a_data_set_that_was_not_prepared_here_is_not_overwritten(tmp_path):
    prepare_dataset([FakeAsset("fake/ball")], tmp_path, config=SMALL, show_progress=False)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(Omni123Error, match="not prepared here"):
        prepare_dataset([FakeAsset("fake/other")], tmp_path, config=SMALL, show_progress=False)
    assert AssetStore.open(tmp_path).records[0].id == "fake/ball"


def test_a_missing_labeller_is_said_before_closed_meshes_are_rejected_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Omni123Error, match="needs libigl"):
        prepare_dataset([FakeAsset("fake/ball")], tmp_path / "out", config=SMALL, show_progress=False)
    assert not (tmp_path / "out").exists()


def test_settings_come_from_presets_and_files_and_bad_ones_are_named(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("queries: 4096\nfilters:\n  min_faces: 5\nlimits:\n  max_faces: 1000\n")
    config = load_config("full", file, seed=3)
    assert (config.queries, config.surface_points, config.seed) == (4096, 80_000, 3)
    assert config.filters.min_faces == 5 and config.filters.max_faces == 300_000 and config.limits.max_faces == 1000
    file.write_text("filters: null\n")
    assert load_config("default", file).filters is None
    for text, message in [
        ("querys: 5", "unknown settings querys"),
        ("filters:\n  thin: 5", "unknown settings filters.thin"),
        ("queries: 5", "queries must be from 8"),
        ("queries: 12", "multiple of 8"),
        ("solid: hollow", "watertight or flood"),
        ("solid: flood", "round trip needs"),
        ("seconds_per_asset: soon", "seconds_per_asset must be a number"),
        ("truncation: 1e-1", "truncation must be a number .*1.0e-3"),
        ("truncation: .nan", "truncation must be a number"),
        ("seed: true", "seed must be a whole number, got True"),
        ("seed: -1", "seed must be from 0"),
        ("view_size: 64.0", "view_size must be a whole number"),
        ("supersample: 0", "supersample must be from 1"),
        ("resolution: 5", "resolution must be from 8"),
        ("max_sheet_share: 2", "max_sheet_share must be from 0.0 to 1.0"),
        ("allow_unknown_licence: 1", "allow_unknown_licence must be true or false"),
        ("filters: 5", "filters must be settings"),
        ("limits: null", "limits must be settings"),
        ("filters:\n  min_faces: many", "filters.min_faces must be a whole number or null"),
        ("limits:\n  max_faces: 1.5", "limits.max_faces must be a whole number"),
        ("- a", "name: value"),
        ("a: [", "not a readable YAML"),
    ]:
        file.write_text(text)
        with pytest.raises(Omni123Error, match=message):
            load_config("default", file)
    with pytest.raises(Omni123Error, match="unknown preset"):
        load_config("huge")
    assert PreparationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
