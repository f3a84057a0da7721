from __future__ import annotations

import numpy as np
import pytest
import trimesh
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS, get_camera, orbit_camera, random_camera
from omni123_hf.geometry.lighting import DEFAULT_LIGHTING, DirectionalLight, Lighting, random_lighting
from omni123_hf.geometry.rasterizer import render
from omni123_hf.geometry.rendering import SoftwareRenderer, render_view


FRONT = get_camera("front")
FULL = Lighting((), ambient=1.0)


def colored_ball(subdivisions: int = 2) -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(subdivisions, 0.7)
    ball.visual.face_colors = np.random.default_rng(0).integers(0, 256, (len(ball.faces), 4))
    return ball


def square(texels: np.ndarray, z: float = 0.0, **material) -> trimesh.Trimesh:
    """A square of half side 1.05, exactly the picture of the front view, that faces +z."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 1.05 + (0, 0, z)
    mesh = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    pbr = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(texels), **material)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=pbr)
    return mesh


@pytest.mark.parametrize("supersample", [1, 2])
def test_the_default_view_agrees_with_render(supersample):
    ball = colored_ball()
    for name in ALL_VIEWS:
        old = render(ball, get_camera(name), 40, supersample)
        new = render_view(ball, get_camera(name), 40, supersample=supersample)
        np.testing.assert_array_equal(new.depth, old.depth)
        np.testing.assert_array_equal(new.rgba[..., 3], np.rint(old.mask * 255))
        np.testing.assert_array_equal(new.silhouette > 0, old.mask >= 0.5)
        np.testing.assert_allclose(new.normal, old.normal, atol=1e-6)
        assert np.abs(new.on().astype(int) - old.color).max() <= 1


def test_alpha_is_straight_at_the_rim():
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    box.visual.face_colors = np.tile((200, 100, 50, 255), (12, 1))
    view = render_view(box, FRONT, 33, FULL, supersample=4)
    partial = (view.rgba[..., 3] > 0) & (view.rgba[..., 3] < 255)
    assert partial.any() and (view.rgba[partial][:, :3] == (200, 100, 50)).all()
    assert not view.rgba[view.rgba[..., 3] == 0].any()
    assert view.on((0, 0, 0))[0, 0].tolist() == [0, 0, 0] and view.on()[0, 0].tolist() == [255, 255, 255]


def test_views_do_not_depend_on_their_neighbours():
    ball, rng = colored_ball(), np.random.default_rng(0)
    cameras = [random_camera(rng), random_camera(rng, 45.0), FRONT]
    renderer = SoftwareRenderer(crease_angle=40.0)
    lighting = random_lighting(rng)
    for camera, view in zip(cameras, renderer.render_views(ball, cameras, 32, lighting), strict=True):
        alone = renderer.render_view(ball, camera, 32, lighting)
        np.testing.assert_array_equal(alone.rgba, view.rgba)
        assert view.camera == camera and view.size == 32


@pytest.mark.parametrize("camera", [FRONT, orbit_camera("near", 50.0, 20.0, 1.5, 60.0)])
def test_depth_and_normals_of_a_ball_are_exact(camera):
    ball = trimesh.creation.icosphere(5, 0.7)
    view = render_view(ball, camera, 64, supersample=1, crease_angle=30.0)
    rows, columns = np.nonzero(np.isfinite(view.depth))
    xy = np.column_stack([(columns + 0.5) / 32 - 1, 1 - (rows + 0.5) / 32])
    points = camera.unproject(xy, view.depth[rows, columns])
    radii = np.linalg.norm(points, axis=1)
    np.testing.assert_allclose(radii, 0.7, atol=0.002)
    np.testing.assert_allclose(view.normal[rows, columns], points / radii[:, None], atol=0.02)
    # The eye sees less than half of the ball, under the angle asin(r / d).
    if camera.field_of_view:
        shown = 0.7 / np.sqrt(camera.distance**2 - 0.49) / np.tan(np.radians(30.0))
        assert len(rows) / 64**2 == pytest.approx(np.pi / 4 * shown**2, rel=0.03)


def test_smooth_shading_removes_the_facets():
    ball = trimesh.creation.icosphere(2, 0.9)
    flat, smooth = (render_view(ball, FRONT, 64, supersample=1, crease_angle=angle).rgba for angle in (None, 60.0))
    middle = slice(24, 40)
    steps = [np.abs(np.diff(picture[middle, middle, 0].astype(int), axis=1)).max() for picture in (flat, smooth)]
    assert steps[0] > 3 * steps[1]


def test_shading_is_two_sided_with_smooth_normals_too():
    ball = trimesh.creation.icosphere(3, 0.7)
    inside_out = ball.copy()
    inside_out.faces = inside_out.faces[:, ::-1]
    one, other = (render_view(mesh, FRONT, 32, crease_angle=40.0) for mesh in (ball, inside_out))
    assert np.abs(one.rgba.astype(int) - other.rgba).max() <= 1
    np.testing.assert_allclose(one.normal, other.normal, atol=1e-5)


def test_light_changes_colour_only():
    ball = colored_ball()
    blue = Lighting((DirectionalLight((1, 0, 0), 1.0, (0, 0, 1)),), 0.0, frame="world")
    plain, lit = render_view(ball, FRONT, 32), render_view(ball, FRONT, 32, blue)
    assert not lit.rgba[..., :2].any() and lit.rgba[:, 18:, 2].sum() > 0 and not lit.rgba[:, :14, 2].any()
    for part in ("depth", "normal", "silhouette"):
        np.testing.assert_array_equal(getattr(lit, part), getattr(plain, part))


def test_a_texture_appears_upright_texel_by_texel():
    texels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    view = render_view(square(texels), FRONT, 16, FULL, supersample=1, per_pixel_color=True)
    np.testing.assert_allclose(view.rgba[..., :3].astype(int), texels, atol=1)
    flat = render_view(square(texels), FRONT, 16, FULL, supersample=1)
    assert len(np.unique(flat.rgba.reshape(-1, 4), axis=0)) == 2  # one colour a face


def test_textures_are_perspective_correct():
    ramp = np.repeat(np.linspace(0, 255, 256)[None, :, None], 4, axis=0).repeat(3, axis=2).astype(np.uint8)
    camera = orbit_camera("grazing", 55.0, 0.0, 1.6, field_of_view=60.0)
    view = render_view(square(ramp), camera, 64, FULL, supersample=1, per_pixel_color=True)
    rows, columns = np.nonzero(np.isfinite(view.depth))
    xy = np.column_stack([(columns + 0.5) / 32 - 1, 1 - (rows + 0.5) / 32])
    x = camera.unproject(xy, view.depth[rows, columns])[:, 0]
    inner = np.abs(x) < 1.0
    want = (x / 1.05 + 1) / 2 * 255
    assert inner.sum() > 300
    np.testing.assert_allclose(view.rgba[rows, columns, 0][inner], want[inner], atol=2.0)


def test_vertex_colours_blend_across_a_face():
    mesh = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [-1, 1, 0]], [[0, 1, 2]], process=False)
    mesh.visual.vertex_colors = [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]]
    view = render_view(mesh, FRONT, 64, FULL, supersample=1, per_pixel_color=True)
    x, y = (20 + 0.5) / 32 * 1.05 - 1.05, 1.05 - (40 + 0.5) / 32 * 1.05
    want = np.array([-(x + y) / 2, (x + 1) / 2, (y + 1) / 2]) * 255
    np.testing.assert_allclose(view.rgba[40, 20, :3], want, atol=1.0)


def test_cut_out_parts_show_what_lies_behind():
    leaf = np.zeros((32, 32, 4), np.uint8)
    leaf[:, :16] = (0, 200, 0, 255)  # the right half is transparent black
    wall = np.full((4, 4, 3), 90, np.uint8)
    both = [square(leaf, 0.5, alphaMode="MASK"), square(wall, -0.5)]
    renderer = SoftwareRenderer(supersample=1, per_pixel_color=True)
    alone = renderer.render_view(both[0], FRONT, 32, FULL)
    assert (alone.silhouette[:, :16] == 255).all() and not alone.silhouette[:, 16:].any()
    np.testing.assert_array_equal(alone.rgba[:, :16, :3].reshape(-1, 3), np.tile((0, 200, 0), (512, 1)))
    assert np.isinf(alone.depth[:, 16:]).all() and np.allclose(alone.depth[:, :16], 1.5)
    opaque = SoftwareRenderer(supersample=1).render_view(both[0], FRONT, 32, FULL)
    assert (opaque.silhouette == 255).all()

    # One mesh, one texture: the leaf in the upper half of the picture, the wall in the lower one.
    atlas = np.concatenate([leaf, np.full((32, 32, 4), 255, np.uint8)])
    pair = square(atlas, alphaMode="MASK")
    low, high = pair.copy(), pair.copy()
    low.apply_translation((0, 0, -0.5))
    corners = np.vstack([high.vertices, low.vertices])
    uv = np.array([[0, 0.5], [1, 0.5], [1, 1], [0, 1], [0, 0], [1, 0], [1, 0.5], [0, 0.5]])
    mesh = trimesh.Trimesh(corners, np.vstack([high.faces, low.faces + 4]), process=False)
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=pair.visual.material)
    view = renderer.render_view(mesh, FRONT, 32, FULL)
    assert (view.silhouette[2:-2] == 255).all()
    np.testing.assert_allclose(view.depth[4:-4, :15], 2.0, atol=1e-5)
    np.testing.assert_allclose(view.depth[4:-4, 17:], 2.5, atol=1e-5)


def test_empty_and_bad_input():
    empty = render_view(trimesh.Trimesh(), FRONT, 8, crease_angle=40.0, per_pixel_color=True)
    assert not empty.rgba.any() and np.isinf(empty.depth).all() and not empty.normal.any()
    with pytest.raises(Omni123Error, match="size"):
        render_view(colored_ball(), FRONT, 8, DEFAULT_LIGHTING, supersample=0)
    broken = trimesh.creation.box()
    broken.vertices[0] = np.nan
    with pytest.raises(Omni123Error, match="finite"):
        render_view(broken, FRONT, 8)
