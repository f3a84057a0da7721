"""What can be known without `bpy`, and, where it is installed (an environment of its own), what it draws."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import trimesh
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.blender import BlenderRenderer, linear_levels
from omni123_hf.geometry.cameras import get_camera, random_camera
from omni123_hf.geometry.color_space import linear_from_srgb
from omni123_hf.geometry.lighting import DEFAULT_LIGHTING, Lighting, random_lighting
from omni123_hf.geometry.rendering import SoftwareRenderer


def test_without_bpy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bpy", None)
    with pytest.raises(Omni123Error, match="pip install bpy"):
        BlenderRenderer()


def test_a_missing_environment_picture_is_named(tmp_path):
    with pytest.raises(Omni123Error, match="sky.hdr"):
        BlenderRenderer(environment=tmp_path / "sky.hdr")


def test_nothing_imports_bpy_by_default():
    code = "import sys, omni123_hf.geometry.blender; sys.exit('bpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lit_and_shaded_surfaces_have_the_brightness_of_the_software_renderer():
    for lighting in (DEFAULT_LIGHTING, random_lighting(np.random.default_rng(1))):
        ambient, lamps = linear_levels(lighting)
        full = lighting.ambient + sum(light.intensity for light in lighting.lights)
        assert ambient ** (1 / 2.2) == pytest.approx(lighting.ambient)
        assert (ambient + sum(lamps)) ** (1 / 2.2) == pytest.approx(full)
    assert linear_levels(Lighting((), 0.5))[1] == []
    np.testing.assert_allclose(linear_from_srgb(np.array([0.0, 0.5, 1.0])), [0, 0.21404, 1], atol=1e-5)


@pytest.fixture
def scene_mesh() -> trimesh.Trimesh:
    ball, box = trimesh.creation.icosphere(3, 0.5), trimesh.creation.box((1.6, 0.2, 1.2))
    ball.apply_translation((0.45, -0.2, 0.3))
    box.apply_translation((0, -0.85, 0))
    for mesh, color in ((ball, (220, 60, 40)), (box, (120, 200, 130))):
        mesh.visual.face_colors = np.tile((*color, 255), (len(mesh.faces), 1))
    return trimesh.util.concatenate([ball, box])


@pytest.mark.slow
def test_blender_views_fit_the_geometry_passes(scene_mesh):
    pytest.importorskip("bpy")
    cameras = [get_camera("three_quarter"), get_camera("top"), random_camera(np.random.default_rng(1), 45.0)]
    renderer = BlenderRenderer(samples=8)
    views = renderer.render_views(scene_mesh, cameras, 96)
    plain = SoftwareRenderer(crease_angle=40.0).render_views(scene_mesh, cameras, 96)
    for view, software in zip(views, plain, strict=True):
        mine, theirs = view.rgba[..., 3] / 255.0, software.rgba[..., 3] / 255.0
        assert np.abs(mine - theirs).mean() < 0.01
        centroids = [np.array(np.nonzero(alpha > 0.5)).mean(axis=1) for alpha in (mine, theirs)]
        assert np.abs(centroids[0] - centroids[1]).max() < 0.5
        both = (mine > 0.99) & (theirs > 0.99)
        difference = view.rgba[both][:, :3].astype(int) - software.rgba[both][:, :3]
        assert np.abs(difference).mean() < 40  # shadows, light between surfaces, highlights
        np.testing.assert_array_equal(view.depth, software.depth)
    np.testing.assert_array_equal(renderer.render_view(scene_mesh, cameras[0], 96).rgba, views[0].rgba)


@pytest.mark.slow
def test_blender_leaves_its_data_as_it_was(scene_mesh):
    bpy = pytest.importorskip("bpy")

    def blocks() -> list[int]:
        kinds = ("scenes", "objects", "meshes", "cameras", "lights", "worlds", "materials", "images")
        return [len(getattr(bpy.data, kind)) for kind in kinds]

    before = blocks()
    BlenderRenderer(samples=1).render_views(scene_mesh, [get_camera("front")] * 2, 16)
    assert blocks() == before


@pytest.mark.slow
def test_the_middle_of_an_environment_is_the_front(tmp_path):
    pytest.importorskip("bpy")
    # Red from the front, blue from +x, black elsewhere.
    sky = np.zeros((32, 64, 3), np.uint8)
    sky[:, 24:40, 0] = sky[:, 8:16, 2] = 255
    Image.fromarray(sky).save(tmp_path / "sky.png")
    ball = trimesh.creation.icosphere(3, 0.9)

    def light(name: str, azimuth: float = 0.0) -> np.ndarray:
        renderer = BlenderRenderer(samples=16, environment=tmp_path / "sky.png", environment_azimuth=azimuth)
        return renderer.render_view(ball, get_camera(name), 32).rgba[..., :3].astype(float)

    front = light("front")
    assert front[..., 0].sum() > 3 * light("back")[..., 0].sum()
    assert front[:, 16:, 2].sum() > 3 * front[:, :16, 2].sum()  # +x is at the right of the front view
    turned = light("right", azimuth=90.0)
    np.testing.assert_allclose(turned[12:20, 12:20].mean(axis=(0, 1)), front[12:20, 12:20].mean(axis=(0, 1)), atol=12)


@pytest.mark.slow
def test_blender_respects_cut_out_textures():
    pytest.importorskip("bpy")
    texels = np.full((32, 32, 4), (40, 160, 60, 255), np.uint8)
    texels[:, 16:, 3] = 0
    mesh = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(texels), alphaMode="MASK")
    mesh.visual = trimesh.visual.TextureVisuals(
        uv=np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float), material=material
    )
    view = BlenderRenderer(samples=16).render_view(mesh, get_camera("front"), 32)
    assert (view.rgba[4:28, 4:14, 3] == 255).all() and not view.rgba[4:28, 18:, 3].any()
    green = view.rgba[4:28, 4:14, :3].reshape(-1, 3).mean(axis=0)
    assert green[1] > 2 * green[0] and green[1] > 2 * green[2]
