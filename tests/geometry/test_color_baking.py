"""Colours from rendered views come back to where they were; hidden places are filled in."""

import numpy as np
import pytest
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import CANONICAL_VIEWS, get_camera
from omni123_hf.geometry.color_baking import bake_vertex_colors, fill_background, inpaint
from omni123_hf.geometry.rasterizer import visible_faces


def painted_ball() -> tuple[trimesh.Trimesh, np.ndarray]:
    """A fine ball and a smooth colour for each vertex."""
    mesh = trimesh.creation.icosphere(4, radius=0.9)
    return mesh, 40 + 90 * (np.asarray(mesh.vertices) + 0.9) / 0.9


def unlit_view(mesh: trimesh.Trimesh, colors: np.ndarray, name: str, size: int = 128) -> np.ndarray:
    """The plain colours as the camera sees them, on white: no light, so that what is baked can be compared."""
    triangles = np.asarray(mesh.vertices)[mesh.faces]
    face, _ = visible_faces(triangles, get_camera(name), size)
    picture = np.full((size, size, 3), 255, np.uint8)
    hit = face >= 0
    picture[hit] = colors[mesh.faces].mean(axis=1)[face[hit]].round().astype(np.uint8)
    return picture


def test_six_views_bring_every_colour_back():
    mesh, colors = painted_ball()
    views = {name: unlit_view(mesh, colors, name) for name in CANONICAL_VIEWS}
    baked, report = bake_vertex_colors(mesh, views)
    found = np.asarray(baked.visual.vertex_colors)[:, :3].astype(float)
    assert report.seen_share > 0.99
    assert np.abs(found - colors).mean() < 2 and np.abs(found - colors).max() < 20
    assert (
        np.array_equal(baked.faces, mesh.faces) and not (np.asarray(mesh.visual.vertex_colors)[:, :3] == found).all()
    )


def test_the_side_that_no_view_sees_is_filled_smoothly():
    mesh, colors = painted_ball()
    baked, report = bake_vertex_colors(mesh, {"front": unlit_view(mesh, colors, "front")})
    assert 0.3 < report.seen_share < 0.6
    found = report.colors
    seen = report.weight > 0
    assert np.abs(found[seen] - colors[seen]).mean() < 3
    # A harmonic extension stays between the values it meets.
    assert found[~seen].min() >= found[seen].min() - 1e-6 and found[~seen].max() <= found[seen].max() + 1e-6


def test_what_stands_behind_something_takes_no_colour_from_it():
    near = trimesh.creation.box((0.6, 0.6, 0.1))
    near.apply_translation((0, 0, 0.6))
    far = trimesh.creation.box((0.4, 0.4, 0.1)).subdivide()
    far.apply_translation((0, 0, -0.5))
    mesh = trimesh.util.concatenate([near, far])
    front, back = np.full((64, 64, 3), 255, np.uint8), np.full((64, 64, 3), 255, np.uint8)
    front[:] = (200, 0, 0)
    back[:] = (0, 0, 200)
    _, report = bake_vertex_colors(mesh, {"front": front, "back": back}, background=False)
    behind = np.arange(len(mesh.vertices)) >= len(near.vertices)
    assert (report.colors[behind][:, 0] < 100).all() and (report.colors[behind][:, 2] > 100).all()


def test_background_of_a_picture_that_does_not_fit_is_not_painted_on():
    mesh, colors = painted_ball()
    small, _ = painted_ball()
    small.apply_scale(0.7)
    views = {name: unlit_view(small, colors, name) for name in CANONICAL_VIEWS}
    _, report = bake_vertex_colors(mesh, views)
    assert report.colors.max() < 245
    covered = np.concatenate([views["front"], np.where((views["front"] < 250).any(-1), 255, 0)[..., None]], -1)
    _, alpha = bake_vertex_colors(mesh, {"front": covered.astype(np.uint8)})
    assert 0 < alpha.seen_share < report.seen_share


def test_a_piece_without_any_known_vertex_takes_the_nearest_colours():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [6, 0, 0], [5, 1, 0]], dtype=float)
    colors = np.zeros((6, 3))
    colors[:3] = [[10, 0, 0], [20, 0, 0], [30, 0, 0]]
    filled = inpaint(
        vertices, np.array([[0, 1, 2], [3, 4, 5]]), colors, np.array([True, True, False, False, False, False])
    )
    assert 10 <= filled[2, 0] <= 20
    assert (filled[3:, 0] == 20).all()


@pytest.mark.parametrize(
    "views, message",
    [
        ({}, "no views"),
        ({"below": np.zeros((4, 4, 3), np.uint8)}, "unknown view 'below'"),
        ({"front": np.zeros((4, 4), np.uint8)}, "picture of view 'front'"),
        ({"front": np.zeros((4, 4, 3))}, "float64"),
        ({"front": np.full((8, 8, 3), 255, np.uint8)}, "no vertex of the mesh"),
    ],
)
def test_views_that_cannot_be_used_are_named(views, message):
    with pytest.raises(Omni123Error, match=message):
        bake_vertex_colors(painted_ball()[0], views)


def test_half_white_pixels_of_an_outline_do_not_bleach_the_rim():
    color = np.array([60.0, 20.0, 20.0])
    cover = np.zeros((24, 24))
    cover[6:18, 6:18], cover[5, 5:19], cover[18, 5:19], cover[5:19, 5], cover[5:19, 18] = 1, 0.4, 0.4, 0.4, 0.4
    values = cover[..., None] * color + (1 - cover[..., None]) * 255
    white = (values >= 247).all(axis=2)
    assert np.abs(fill_background(values, white) - color).max() < 1
    thin = np.full((9, 9, 3), 255.0)
    thin[:, 4] = 150.0
    # Nothing lies behind the outline of a line: it keeps what it has.
    assert (fill_background(thin, (thin >= 247).all(axis=2)) == 150.0).all()
