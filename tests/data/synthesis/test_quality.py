"""Three axes: each falls when its own fault is put into a good object, and only then."""

import numpy as np
import pytest
import trimesh
from scipy import ndimage
from scripted import ScriptedBackend

from omni123_hf.data.captioning.judge import Judge
from omni123_hf.data.parametric.registry import build, sample_program
from omni123_hf.data.prepared_views import render_views
from omni123_hf.data.synthesis.quality import AXES, JudgedQuality, MeasuredQuality, surface_detail
from omni123_hf.geometry.normalization import normalize_mesh


def rated(mesh: trimesh.Trimesh, **thresholds):
    mesh, _ = normalize_mesh(mesh)
    return MeasuredQuality(**thresholds).rate(mesh, render_views(mesh, 64), "")


@pytest.fixture(scope="module")
def chair() -> trimesh.Trimesh:
    return build(sample_program("chair", np.random.default_rng(0))).to_mesh()


def test_a_sound_object_is_high_on_every_axis(chair):
    ratings = rated(chair, surface_clarity=0.005)  # painted in plain colours
    assert list(ratings) == list(AXES) and all(r.is_high for r in ratings.values()), ratings


def test_a_floating_piece_breaks_the_silhouette_only(chair):
    ball = trimesh.creation.icosphere(2, 0.15 * chair.extents.max())
    ball.apply_translation(chair.bounds[1] + 0.4 * chair.extents.max())
    ratings = rated(trimesh.util.concatenate([chair, ball]))
    assert not ratings["silhouette_connectivity"].is_high


def test_holes_and_lost_symmetry_make_geometry_inconsistent(chair):
    torn = chair.copy()
    torn.update_faces(np.random.default_rng(0).random(len(torn.faces)) < 0.4)
    assert not rated(torn)["geometric_consistency"].is_high
    sheared = chair.copy()
    matrix = np.eye(4)
    matrix[0, 1] = matrix[2, 1] = 1.6
    sheared.apply_transform(matrix)
    scores = [rated(mesh)["geometric_consistency"].score for mesh in (chair, sheared)]
    assert scores[1] < 0.6 * scores[0]


def test_muddy_and_flat_surfaces_are_told_from_sharp_ones():
    views = np.full((7, 64, 64, 4), 255, dtype=np.uint8)
    views[..., 3] = 0
    views[:, 16:48, 16:48, 3] = 255
    grain = np.random.default_rng(0).integers(60, 200, (32, 32), dtype=np.uint8)
    views[:, 16:48, 16:48, :3] = grain[..., None]
    muddy = views.copy()
    muddy[:, 16:48, 16:48, :3] = ndimage.gaussian_filter(grain, 3.0)[..., None]
    flat = views.copy()
    flat[:, 16:48, 16:48, :3] = 120
    detail = [surface_detail(v) for v in (views, muddy, flat)]
    assert detail[0] > 10 * detail[1] > 10 * detail[2] and detail[2] < 0.001
    assert surface_detail(np.zeros_like(views)) == 0.0


def test_a_judge_rates_all_axes_in_one_answer(chair):
    answer = {"reason": "a leg floats", **dict.fromkeys(AXES, "high"), "silhouette_connectivity": "low"}
    backend = ScriptedBackend(answer)
    rater = JudgedQuality(Judge(backend))
    mesh, _ = normalize_mesh(chair)
    ratings = rater.rate(mesh, render_views(mesh, 32), "a chair")
    assert [r.is_high for r in ratings.values()] == [True, True, False]
    assert ratings["silhouette_connectivity"].note == "a leg floats"
    assert "'a chair'" in backend.asked[0][0][1].parts[-1]
    assert rater.identity != JudgedQuality(Judge(ScriptedBackend())).identity | {"rater": "x"}
