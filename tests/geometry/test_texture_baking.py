"""Textures from views: the right colour on the right side, nothing left blank, and finer than the vertices."""

import io
from pathlib import Path

import numpy as np
import pytest
import trimesh
from test_color_baking import painted_ball

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import CANONICAL_VIEWS, get_camera
from omni123_hf.geometry.color_baking import bake_vertex_colors
from omni123_hf.geometry.export import export_glb
from omni123_hf.geometry.rasterizer import visible_faces
from omni123_hf.geometry.texture_baking import atlas, bake_texture, texels


COLORS = dict(
    zip(
        CANONICAL_VIEWS,
        [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (200, 30, 200), (30, 200, 200)],
        strict=True,
    )
)


def plain_views(size: int = 64) -> dict[str, np.ndarray]:
    """Six pictures of one colour each, on white where a cube of side 1.6 ends."""
    views = {}
    for name, color in COLORS.items():
        face, _ = visible_faces(np.asarray(cube().triangles), get_camera(name), size)
        views[name] = np.where((face >= 0)[..., None], np.uint8(color), np.uint8(255))
    return views


def cube() -> trimesh.Trimesh:
    return trimesh.creation.box((1.6, 1.6, 1.6))


def colors_at(mesh: trimesh.Trimesh, weights=(1 / 3, 1 / 3, 1 / 3)) -> np.ndarray:
    """(F, 3) the texture's colours at a point of every face."""
    image = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
    uv = np.einsum("k,fkc->fc", np.array(weights), np.asarray(mesh.visual.uv)[mesh.faces])
    size = len(image)
    column, row = (uv[:, 0] * size).astype(int), ((1 - uv[:, 1]) * size).astype(int)
    return image[row, column].astype(float)


@pytest.mark.parametrize("through_a_file", [False, True])
def test_a_cube_has_the_colour_of_each_view_on_its_side(through_a_file, tmp_path):
    baked, report = bake_texture(cube(), plain_views(), size=128)
    if through_a_file:
        data = export_glb(baked, tmp_path / "cube.glb").read_bytes()
        baked = trimesh.load(io.BytesIO(data), file_type="glb", force="mesh", process=False)
    assert report.seen_share > 0.95 and len(baked.faces) == 12
    for weights in ((1 / 3, 1 / 3, 1 / 3), (0.9, 0.05, 0.05), (0.05, 0.05, 0.9)):
        found = colors_at(baked, weights)
        for normal, color in zip(baked.face_normals, found, strict=True):
            name = max(COLORS, key=lambda view: float(normal @ np.array(get_camera(view).direction)))
            assert np.abs(color - COLORS[name]).max() < 3, (name, color)


def test_vertex_mode_has_them_too_where_vertices_are_not_shared():
    mesh = cube().subdivide().subdivide()
    mesh.unmerge_vertices()
    solid = {name: np.zeros((8, 8, 3), np.uint8) + np.uint8(color) for name, color in COLORS.items()}
    baked, _ = bake_vertex_colors(mesh, solid, background=False)
    found = np.asarray(baked.visual.vertex_colors)[np.asarray(baked.faces), :3].mean(axis=1)
    for normal, color in zip(baked.face_normals, found, strict=True):
        name = max(COLORS, key=lambda view: float(normal @ np.array(get_camera(view).direction)))
        assert np.abs(color - COLORS[name]).max() < 3


def test_what_no_view_sees_is_filled_and_seams_stay_shut(tmp_path):
    # A hole through the middle and an inner wall: faces that no axis view sees whole.
    torus = trimesh.creation.torus(0.6, 0.25)
    shell = trimesh.creation.icosphere(2, radius=0.2)
    mesh = trimesh.util.concatenate([torus, shell, trimesh.creation.box((0.1, 0.1, 0.1))])
    color = np.zeros((48, 48, 3), np.uint8) + np.uint8((180, 90, 20))
    baked, report = bake_texture(mesh, {name: color for name in CANONICAL_VIEWS}, size=256, background=False)
    assert 0.5 < report.seen_share < 1
    for weights in ((1 / 3, 1 / 3, 1 / 3), (0.98, 0.01, 0.01)):
        assert np.abs(colors_at(baked, weights) - (180, 90, 20)).max() <= 1
    assert mesh.is_watertight
    baked.merge_vertices(merge_tex=True)
    assert baked.is_watertight


def test_no_two_faces_share_a_texel():
    mesh = trimesh.creation.torus(0.6, 0.25, major_sections=12, minor_sections=8)
    triangles = np.asarray(mesh.triangles)
    corners, owner = atlas(triangles, 256)
    assert corners.min() >= 0 and corners.max() <= 256
    *_, face, weights = texels(corners, 256)
    x, y = corners[..., 0], corners[..., 1]
    area = np.abs((x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])) / 2
    covered = np.bincount(face, minlength=len(triangles))
    # Hidden behind another one, a face of some size would be missing texels.
    large = (area > 12) & (owner < 6)
    assert large.any() and (covered[large] > 0.5 * area[large]).all()
    assert (weights >= 0).all()


def test_a_texture_is_nearer_to_the_views_than_no_colour_and_than_coarse_vertices():
    ball, colors = painted_ball()
    stripes = colors + 60 * np.sign(np.sin(14 * np.asarray(ball.vertices)[:, :1]))
    ball.visual.vertex_colors = np.concatenate([stripes.clip(0, 240), np.full((len(stripes), 1), 255)], 1).astype(
        np.uint8
    )
    views = {name: flat_render(ball, name) for name in CANONICAL_VIEWS}
    coarse = trimesh.creation.icosphere(2, radius=0.9)

    def psnr(mesh: trimesh.Trimesh) -> float:
        errors = []
        for name, picture in views.items():
            inside = (picture < 250).any(axis=2)
            errors.append(((flat_render(mesh, name)[inside].astype(float) - picture[inside]) ** 2).mean())
        return float(10 * np.log10(255**2 / np.mean(errors)))

    plain, vertex = psnr(coarse), psnr(bake_vertex_colors(coarse, views)[0])
    texture = psnr(bake_texture(coarse, views, size=512)[0])
    assert texture > vertex + 2 > plain + 2
    assert texture > 20


def flat_render(mesh: trimesh.Trimesh, name: str, size: int = 96) -> np.ndarray:
    """The colours of a view without light, on white."""
    from omni123_hf.geometry.colors import surface_colors
    from omni123_hf.geometry.rasterizer import mesh_triangles, nearest_faces, project_triangles

    triangles = mesh_triangles(mesh)
    screen = project_triangles(triangles, get_camera(name), size)
    face, _ = nearest_faces(screen, size)
    row, column = np.nonzero(face >= 0)
    hit = face[row, column]
    picture = np.full((size, size, 3), 255, np.uint8)
    weights = screen.weights(hit, column + 0.5, row + 0.5)
    picture[row, column] = surface_colors(mesh).at(hit, weights)[:, :3].clip(0, 255).round()
    return picture


@pytest.mark.parametrize(
    ("size", "message"), [(8, "64 to 8192"), (True, "64 to 8192"), (100_000, "64 to 8192"), (64, "do not fit")]
)
def test_a_texture_that_cannot_be_is_refused(size, message):
    shells = [trimesh.creation.icosphere(3, radius=radius) for radius in (0.9, 0.7, 0.5, 0.3)]
    mesh = trimesh.util.concatenate(shells)
    views = {name: np.full((8, 8, 3), 90, np.uint8) for name in CANONICAL_VIEWS}
    with pytest.raises(Omni123Error, match=message):
        bake_texture(mesh, views, size=size, background=False)


def test_our_reader_sees_the_colours(tmp_path: Path):
    from omni123_hf.geometry.loading import load_mesh

    baked, _ = bake_texture(cube(), plain_views(), size=128)
    read = load_mesh(export_glb(baked, tmp_path / "cube.glb"))
    names = [max(COLORS, key=lambda v: float(n @ np.array(get_camera(v).direction))) for n in read.face_normals]
    found = np.asarray(read.visual.face_colors)[:, :3].astype(float)
    assert np.abs(found - [COLORS[name] for name in names]).max() < 6
