from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import get_camera, random_camera
from omni123_hf.geometry.rendered_view import (
    RenderedView,
    decode_depth,
    decode_normals,
    depth_step,
    encode_depth,
    encode_normals,
)
from omni123_hf.geometry.rendering import render_view


@pytest.mark.parametrize("camera", [get_camera("three_quarter"), random_camera(np.random.default_rng(0), 25.0)])
def test_saved_views_come_back(tmp_path, camera):
    view = render_view(trimesh.creation.icosphere(2, 0.8), camera, 48)
    assert view.save(tmp_path / "new", "ball") == tmp_path / "new" / "ball.json"
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"ball.json", "ball.png", "ball.depth.png", "ball.normal.png", "ball.silhouette.png"}
    back = RenderedView.load(tmp_path / "new", "ball")
    assert back.camera == camera
    np.testing.assert_array_equal(back.rgba, view.rgba)
    np.testing.assert_array_equal(back.silhouette, view.silhouette)
    inside = np.isfinite(view.depth)
    assert (np.isfinite(back.depth) == inside).all() and back.depth.dtype == np.float32
    assert np.abs(back.depth[inside] - view.depth[inside]).max() <= 0.51 * depth_step(camera)
    cosine = (back.normal * view.normal).sum(axis=-1)[inside]
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.5 and not back.normal[~inside].any()


def test_the_depth_picture_is_16_bit_with_the_documented_scale(tmp_path):
    box = trimesh.creation.box((1, 1, 1))
    view = render_view(box, get_camera("front"), 16)
    facts = json.loads(view.save(tmp_path, "box").read_text())
    with Image.open(tmp_path / "box.depth.png") as picture:
        assert picture.mode.startswith("I;16")
        values = np.asarray(picture)
    assert values[8, 8] * facts["depth_step"] == pytest.approx(1.5, abs=facts["depth_step"])
    assert values[0, 0] == 0 and facts["depth_step"] < 1e-4


def test_every_direction_survives_8_bits_and_outside_stays_outside():
    normals = np.random.default_rng(0).normal(size=(64, 64, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[0] = 0
    back = decode_normals(encode_normals(normals))
    assert not back[0].any()
    assert np.degrees(np.arccos(np.clip((back * normals)[1:].sum(-1), -1, 1))).max() < 0.5


def test_depth_out_of_range_is_refused_and_depth_zero_is_not_outside():
    with pytest.raises(Omni123Error, match="normalise"):
        encode_depth(np.array([[9.0]], np.float32), depth_step(get_camera("front")))
    assert np.isfinite(decode_depth(encode_depth(np.array([[0.0]], np.float32), 1e-4), 1e-4)).all()


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    view = render_view(trimesh.creation.box(), get_camera("front"), 8)
    with pytest.raises(Omni123Error, match="box.json"):
        RenderedView.load(tmp_path, "box")
    with pytest.raises(Omni123Error, match="without folders"):
        view.save(tmp_path, "a/b")
    path = view.save(tmp_path, "box")
    (tmp_path / "box.depth.png").write_bytes(b"not a picture")
    with pytest.raises(Omni123Error, match="box"):
        RenderedView.load(tmp_path, "box")
    path.write_text(json.dumps({"format": "other"}))
    with pytest.raises(Omni123Error, match="format"):
        RenderedView.load(tmp_path, "box")


def test_a_failed_save_leaves_no_json(tmp_path):
    camera = get_camera("front")
    view = render_view(trimesh.creation.box((1, 1, 1)), camera, 8)
    far = RenderedView(view.rgba, view.depth + 10, view.normal, view.silhouette, camera)
    with pytest.raises(Omni123Error):
        far.save(tmp_path, "far")
    assert not list(tmp_path.iterdir())
