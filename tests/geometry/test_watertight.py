from __future__ import annotations

import numpy as np
import pytest
import trimesh
from solid_shapes import below, bowl, box, joined, mesh_of, reversed_faces, sphere, wound_tube

from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.shells import is_closed, separated, shell_labels
from omni123_hf.geometry.solid import weld
from omni123_hf.geometry.watertight import WatertightResult, make_watertight


BALL = sphere().volume


def solid(mesh: trimesh.Trimesh, **options) -> WatertightResult:
    result = make_watertight(mesh, **{"resolution": 64, **options})
    assert is_closed(np.asarray(result.mesh.faces)) and result.mesh.volume > 0
    return result


def pieces(mesh: trimesh.Trimesh) -> int:
    return int(shell_labels(np.asarray(mesh.faces)).max()) + 1


@pytest.mark.parametrize(
    "mesh",
    [sphere(), bowl(), box((1.9, 0.02, 1.5)), joined(box((1, 1, 1), (-0.4, 0, 0)), box((0.4, 0.4, 0.4), (0.7, 0, 0)))],
)
def test_a_closed_mesh_is_returned_itself(mesh):
    result = solid(mesh)
    assert result.mesh is mesh and result.method == "closed" and result.reason == ""


@pytest.mark.parametrize(
    ("mesh", "volume", "method", "reason"),
    [
        (joined(box((1, 1, 1), (-0.4, 0, 0)), box((1, 1, 1), (0.1, 0.3, 0.2))), 2 - 0.5 * 0.7 * 0.8, "union", "overlapping_shells"),
        (joined(sphere(), sphere(0.8)), BALL, "union", "overlapping_shells"),
        (joined(sphere(), reversed_faces(sphere(0.8))), BALL, "union", "inward_shells"),
        (reversed_faces(sphere()), BALL, "closed", "inward_shells"),
        (mesh_of(sphere().vertices, np.concatenate([sphere().faces, sphere().faces[:500]])), BALL, "closed", "inconsistent"),
        (mesh_of(sphere().vertices, np.concatenate([sphere().faces, sphere().faces[:, ::-1]])), BALL, "closed", "inconsistent"),
        (mesh_of(sphere().vertices, np.where(np.arange(5120)[:, None] % 2, sphere().faces, sphere().faces[:, ::-1])), BALL, "closed", "inconsistent"),
    ],
    ids=["overlap", "nested", "cavity", "inside_out", "doubled", "double_sided", "mixed"],
)  # fmt: skip
def test_closed_shells_are_turned_and_united_exactly(mesh, volume, method, reason):
    result = solid(mesh)
    assert (result.method, result.reason) == (method, reason)
    assert result.mesh.volume == pytest.approx(volume, rel=1e-4)


def test_a_solid_that_touches_itself_stays_as_it_is():
    # The bars meet in one edge, which four faces share once the vertices are welded; the bridge makes one body of them.
    bars = [box((0.2, 0.2, 1.0), (x, x, 0)) for x in (-0.1, 0.1)]
    bridged = make_watertight(joined(*bars, box((0.6, 0.6, 0.2), (0, 0, 0.55)))).mesh
    for mesh, count in ((joined(*bars), 2), (bridged, 1)):
        assert not is_closed(weld(mesh)[1])
        result = solid(mesh)
        assert result.mesh is mesh and (result.method, result.reason) == ("closed", "")
        apart = mesh_of(*separated(*weld(mesh)))
        assert is_closed(np.asarray(apart.faces)) and pieces(apart) == count
        assert apart.volume == pytest.approx(mesh.volume, rel=1e-9)
    turned = solid(joined(bars[0], reversed_faces(bars[1])))
    assert (turned.method, turned.reason) == ("closed", "inward_shells")
    assert turned.mesh.volume == pytest.approx(2 * 0.2 * 0.2 * 1.0)


def test_three_wedges_about_one_edge_are_separated_and_a_fin_is_not():
    wedges = []
    for degrees in (0, 120, 240):
        wedge = mesh_of(
            np.array([[0, 0, -1], [1, -0.3, -1], [1, 0.3, -1], [0, 0, 1], [1, -0.3, 1], [1, 0.3, 1]]) * 0.9,
            np.array([[0, 2, 1], [3, 4, 5], [0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4], [2, 0, 3], [2, 3, 5]]),
        )
        wedges.append(wedge.apply_transform(trimesh.transformations.rotation_matrix(np.deg2rad(degrees), (0, 0, 1))))
    together = joined(*wedges)
    vertices, faces = separated(*weld(together))
    assert pieces(mesh_of(vertices, faces)) == 3 and solid(together).mesh is together
    fin = mesh_of(np.array([[0, 0, -0.9], [0, 0, 0.9], [-0.9, 0, 0]]), np.array([[0, 1, 2]]))
    assert separated(*weld(joined(*wedges, fin))) is None


def test_a_hole_of_five_percent_is_bridged_whichever_way_the_faces_look():
    # A cap of height h has the share h / 2R of a sphere's area.
    opened, height = below(sphere(subdivisions=5), 0.9 * 0.96), 0.1 * 0.96
    want = BALL - np.pi * height**2 * (3 * 0.96 - height) / 3
    for mesh in (opened, reversed_faces(opened)):
        result = solid(mesh)
        assert (result.method, result.reason, result.sheet_share) == ("winding", "open", 0.0)
        assert result.mesh.volume == pytest.approx(want, rel=0.01) and 0.02 < result.bridged_share < 0.06


def test_a_bowl_without_thickness_becomes_a_wall_and_is_not_filled():
    sheet, thickness = below(sphere(subdivisions=5), 0.0), 0.08
    result = solid(sheet, sheet_thickness=thickness)
    rim = 2 * np.pi * 0.96 * np.pi * (thickness / 2) ** 2 / 2
    assert result.method == "flood" and result.sheet_share == 1.0
    assert result.mesh.volume == pytest.approx(sheet.area * thickness + rim, rel=0.02)
    with pytest.raises(RejectedError, match="encloses nothing") as refused:
        make_watertight(sheet, 64, max_sheet_share=0.5)
    assert refused.value.reason == "thin"
    with pytest.raises(RejectedError) as nothing:
        make_watertight(sheet, 64, sheet_thickness=0.0)
    assert nothing.value.reason == "no_solid"


def test_a_bowl_of_two_sheets_without_a_rim_is_solid_between_them():
    outer, inner = below(sphere(subdivisions=5), 0.0), reversed_faces(below(sphere(0.86, 5), 0.0))
    result = solid(joined(outer, inner))
    assert result.method == "winding" and result.sheet_share < 0.01
    assert result.mesh.volume == pytest.approx(2 / 3 * np.pi * (0.96**3 - 0.86**3), rel=0.02)


def test_an_open_thin_plate_keeps_its_thickness():
    plate = box((1.9, 0.02, 1.5))
    for _ in range(4):
        plate = plate.subdivide()
    opened = mesh_of(plate.vertices, plate.faces[plate.triangles_center[:, 0] < 0.949])
    result = solid(opened, resolution=128)
    assert result.method == "winding" and result.mesh.volume == pytest.approx(1.9 * 0.02 * 1.5, rel=0.02)


def test_a_double_shell_with_a_hole_outside_is_solid_throughout():
    result = solid(joined(below(sphere(subdivisions=5), 0.93), sphere(0.8)))
    assert pieces(result.mesh) == 1
    assert result.mesh.volume == pytest.approx(BALL, rel=0.02)


def test_a_mesh_that_runs_through_itself_becomes_the_union():
    assert solid(wound_tube(300)).method == "closed"
    result = solid(wound_tube(420))
    assert (result.method, result.reason) == ("winding", "self_intersecting")
    torus = wound_tube(300).volume * 360 / 300
    assert result.mesh.volume == pytest.approx(torus, rel=0.02)


def test_separate_legs_stay_and_crumbs_go():
    def leg(x: float, z: float) -> trimesh.Trimesh:
        whole = box((0.12, 1.0, 0.12), (x, -0.35, z)).subdivide().subdivide()
        return mesh_of(whole.vertices, whole.faces[whole.triangles_center[:, 1] > -0.849])

    legs = [leg(x, z) for x in (-0.7, 0.7) for z in (-0.7, 0.7)]
    crumb = sphere(0.02, 2).apply_translation((0, -0.5, 0))
    table = joined(box((1.8, 0.1, 1.8), (0, 0.4, 0)), *legs, crumb)
    result = solid(table, resolution=128, min_shell_length=0.06)
    assert pieces(result.mesh) == 5 and result.dropped_shells == 1
    assert result.mesh.volume == pytest.approx(1.8 * 0.1 * 1.8 + 4 * 0.12 * 1.0 * 0.12, rel=0.02)


def test_a_wing_beside_a_solid_becomes_a_wall_and_leaves_the_solid_alone():
    wing = mesh_of(
        np.array([[0.5, 0, -0.2], [0.5, 0, 0.2], [0.95, 0, 0.2], [0.95, 0, -0.2]]), np.array([[0, 1, 2], [0, 2, 3]])
    )
    result = solid(joined(sphere(0.6), wing), sheet_thickness=0.05)
    # The flat part outside the ball, between its wall and x = 0.95.
    z = np.linspace(-0.2, 0.2, 401)
    area = float(np.mean(0.95 - np.sqrt(0.36 - z**2)) * 0.4)
    assert result.mesh.volume == pytest.approx(sphere(0.6).volume + 0.05 * area, rel=0.02) and pieces(result.mesh) == 1
    assert 0.0 < result.sheet_share < 0.2


def test_what_cannot_be_converted_is_named():
    with pytest.raises(RejectedError) as empty:
        make_watertight(mesh_of(np.zeros((3, 3)), np.array([[0, 1, 2]])))
    assert empty.value.reason == "empty"
    with pytest.raises(Omni123Error, match="normalize_mesh"):
        make_watertight(sphere(2.0))
    with pytest.raises(Omni123Error, match="resolution"):
        make_watertight(sphere(), resolution=100)
