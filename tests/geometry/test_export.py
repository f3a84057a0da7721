"""Every format comes back as the same closed mesh, and nothing is half written."""

import json

import numpy as np
import pytest
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.export import FORMATS, export_glb, export_mesh


def painted() -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(2)
    mesh.visual.vertex_colors = np.concatenate(
        [np.tile([200, 40, 10], (len(mesh.vertices), 1)), np.full((len(mesh.vertices), 1), 255)], 1
    )
    return mesh


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_comes_back(tmp_path, suffix):
    path = export_mesh(painted(), tmp_path / f"ball{suffix}", {"prompt": "a ball"})
    loaded = trimesh.load_mesh(path)
    assert loaded.volume == pytest.approx(painted().volume, rel=1e-4) and len(loaded.faces) == 320
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix != ".stl":
        assert np.abs(np.asarray(loaded.visual.vertex_colors)[:, :3].astype(int) - [200, 40, 10]).max() <= 1


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
