"""Every format comes back as the same closed mesh, and nothing is half written."""

import json

import numpy as np
import pytest
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.colors import face_colors
from omni123_hf.geometry.export import FORMATS, export_glb, export_mesh
from omni123_hf.geometry.loading import load_mesh


def painted() -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(2)
    mesh.visual.vertex_colors = np.concatenate(
        [np.tile([200, 40, 10], (len(mesh.vertices), 1)), np.full((len(mesh.vertices), 1), 255)], 1
    )
    return mesh


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_comes_back(tmp_path, suffix):
    path = export_mesh(painted(), tmp_path / f"ball{suffix}", {"prompt": "a ball"})
    loaded = trimesh.load_mesh(path) if suffix != ".glb" else load_mesh(path)
    assert loaded.volume == pytest.approx(painted().volume, rel=1e-4) and len(loaded.faces) == 320
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix != ".stl":
        assert (np.asarray(loaded.visual.vertex_colors)[:, :3] == [200, 40, 10]).all()


def color_accessor(data: bytes) -> tuple[dict, np.ndarray]:
    """The entry and the values (V, 4) of the first primitive's COLOR_0 in a GLB, read by the letter of the format."""
    length = int.from_bytes(data[12:16], "little")
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    start = tree["bufferViews"][accessor["bufferView"]]["byteOffset"] + accessor.get("byteOffset", 0)
    return accessor, np.frombuffer(binary, "<f4", 4 * accessor["count"], start).reshape(-1, 4)


def test_vertex_colours_of_a_glb_are_linear_light(tmp_path):
    mesh = painted()
    accessor, values = color_accessor(export_glb(mesh, tmp_path / "ball.glb").read_bytes())
    assert (accessor["componentType"], accessor["type"], accessor["count"]) == (5126, "VEC4", len(mesh.vertices))
    # 200, 40 and 10 of 255: the power law twice, then the straight part near black.
    expected = [((200 / 255 + 0.055) / 1.055) ** 2.4, ((40 / 255 + 0.055) / 1.055) ** 2.4, 10 / 255 / 12.92, 1.0]
    assert np.allclose(values, expected, rtol=1e-6) and values[0, 0] == pytest.approx(0.5776, abs=1e-4)
    assert (mesh.visual.vertex_colors[0] == [200, 40, 10, 255]).all() and not mesh.vertex_attributes
    # PLY keeps the display values.
    assert (trimesh.load(export_mesh(mesh, tmp_path / "ball.ply")).visual.vertex_colors[0, :3] == [200, 40, 10]).all()


def test_every_level_comes_back_and_stays(tmp_path):
    levels = np.arange(256)
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]) + 2 * levels[:, None, None] * [1, 0, 0]
    mesh = trimesh.Trimesh(corners.reshape(-1, 3), np.arange(768).reshape(-1, 3), process=False)
    mesh.visual.vertex_colors = np.repeat(np.stack([levels, levels[::-1], levels, levels * 0 + 255], 1), 3, axis=0)
    for number in range(3):
        mesh = load_mesh(export_glb(mesh, tmp_path / f"{number}.glb"))
        assert (face_colors(mesh) == np.stack([levels, levels[::-1], levels], axis=1)).all()


def test_a_glb_of_trimesh_keeps_its_display_colours(tmp_path):
    painted().export(tmp_path / "theirs.glb")
    assert (face_colors(load_mesh(tmp_path / "theirs.glb")) == [200, 40, 10]).all()
    # Earlier exports of this package named trimesh, and held display values as well.
    data = (tmp_path / "theirs.glb").read_bytes()
    old = data.replace(
        b'"generator":"https://github.com/mikedh/trimesh"', b'"generator":"omni123-hf 0.1.0 (trimesh 5.10.0)"'
    )
    assert old != data and len(old) == len(data)
    (tmp_path / "old.glb").write_bytes(old)
    assert (face_colors(load_mesh(tmp_path / "old.glb")) == [200, 40, 10]).all()


def test_metadata_stand_in_the_glb(tmp_path):
    data = export_glb(painted(), tmp_path / "ball.glb", {"seed": 3, "licences": ["CC0-1.0"]}).read_bytes()
    length = int.from_bytes(data[12:16], "little")
    assert json.loads(data[20 : 20 + length])["asset"]["extras"] == {"seed": 3, "licences": ["CC0-1.0"]}


@pytest.mark.parametrize(
    "name, mesh, message", [("a.3mf", painted(), "no format"), ("a.obj", trimesh.Trimesh(), "empty")]
)
def test_what_cannot_be_written_is_named(tmp_path, name, mesh, message):
    with pytest.raises(Omni123Error, match=message):
        export_mesh(mesh, tmp_path / name)
    assert not list(tmp_path.iterdir())
