"""Skinning against positions worked out by hand, and pairs of poses, on a cylinder of two bones."""

import numpy as np
import pytest
from skinned_glb import SIN45, TURNS, cylinder, write_skinned_glb

from omni123_hf.data.editing.posed_characters import PosePairSpec, pose_instruction, pose_pairs, travel
from omni123_hf.data.editing.prepare_pair import PAIR_CONFIG, prepare_pair
from omni123_hf.data.editing.skinning import load_character
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.errors import Omni123Error, RejectedError


SMALL = PreparationConfig(
    **{**vars(PAIR_CONFIG), "surface_points": 64, "queries": 512, "view_size": 8, "supersample": 1, "resolution": 64}
)


def turned(degrees):
    """The cylinder with its upper bone turned about z at (0, 1, 0), by linear blend skinning."""
    rest, _ = cylinder()
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = (rest - (0, 1, 0)) @ rotation.T + (0, 1, 0)
    upper = np.clip((rest[:, 1] - 0.9) / 0.2, 0.0, 1.0)[:, None]
    return (1 - upper) * rest + upper * moved


@pytest.mark.parametrize("time, degrees", [(0.0, 0), (0.5, 45), (1.0, 90), (1.75, 22.5), (9.0, 0), (-1.0, 0)])
def test_linear_rotation_is_an_arc(tmp_path, time, degrees):
    character = load_character(write_skinned_glb(tmp_path / "a.glb"))
    posed = character.pose(character.animations[0], time)
    np.testing.assert_allclose(posed.vertices, turned(degrees), atol=1e-5)
    tip = posed.vertices[np.linalg.norm(cylinder()[0] - (0, 2, 0), axis=1).argmin()]
    if degrees == 90:
        np.testing.assert_allclose(tip, (-1, 1, 0), atol=0.31)


def test_step_holds_the_key_before(tmp_path):
    character = load_character(write_skinned_glb(tmp_path / "a.glb", "STEP"))
    clip = character.animations[0]
    np.testing.assert_allclose(character.pose(clip, 0.99).vertices, turned(0), atol=1e-5)
    np.testing.assert_allclose(character.pose(clip, 1.5).vertices, turned(90), atol=1e-5)


def test_cubic_spline_of_a_translation(tmp_path):
    # One segment of 2 s from (0,1,0) to (0,3,0), leaving at 1 m/s along x and arriving at rest.
    values = np.zeros((6, 3))
    values[1], values[2], values[4] = (0, 1, 0), (1, 0, 0), (0, 3, 0)
    path = write_skinned_glb(tmp_path / "a.glb", "CUBICSPLINE", target="translation", values=values, times=(0.0, 2.0))
    character = load_character(path)
    channel = character.animations[0].channels[0]
    # At half: 1/2 of both values, and length * (1/8 - 2/4 + 1/2) = 2 * 1/8 of the tangent.
    np.testing.assert_allclose(channel.at(1.0), (0.25, 2.0, 0.0), atol=1e-6)
    np.testing.assert_allclose(channel.at(0.0), (0, 1, 0))
    np.testing.assert_allclose(channel.at(2.0), (0, 3, 0))
    speed = (channel.at(1e-4) - channel.at(0.0)) / 1e-4
    np.testing.assert_allclose(speed, (1, 0, 0), atol=1e-3)


def test_cubic_spline_of_a_rotation_stays_of_unit_length(tmp_path):
    values = np.zeros((6, 4))
    values[1], values[4] = (0, 0, 0, 1), (0, 0, SIN45, SIN45)
    path = write_skinned_glb(tmp_path / "a.glb", "CUBICSPLINE", values=values, times=(0.0, 1.0))
    value = load_character(path).animations[0].channels[0].at(0.4)
    assert np.linalg.norm(value) == pytest.approx(1.0)


def test_a_quaternion_of_the_other_sign_takes_the_shorter_arc(tmp_path):
    character = load_character(write_skinned_glb(tmp_path / "a.glb", values=TURNS * [[1], [-1], [1]]))
    np.testing.assert_allclose(character.pose(character.animations[0], 0.5).vertices, turned(45), atol=1e-5)


def test_poses_become_pairs_with_words_from_the_joints(tmp_path):
    path = write_skinned_glb(tmp_path / "robot.glb")
    specs = pose_pairs(path, "CC0-1.0", "nobody", name="robot", poses=4)
    # Moments 0, 0.5, 1 and 1.5 s; the first and the last differ too.
    assert [(s.source_time, s.target_time) for s in specs] == [(0.0, 0.5), (0.0, 1.5), (0.5, 1.0), (1.0, 1.5)]
    opened = specs[0].open()
    both = np.concatenate([opened.source.vertices, opened.target.vertices])
    assert np.ptp(both, axis=0).max() == pytest.approx(1.92) and opened.pair.edit_type == "pose"
    assert opened.pair.object_id == "pose/robot" and opened.pair.source.reference["path"] == "robot.glb"
    assert len({spec.open().pair.split for spec in specs}) == 1
    assert "change the pose to the start of 'wave hello'" in opened.pair.inverse().texts
    prepared = prepare_pair(specs[1], SMALL).pair
    assert 0.1 < prepared.changed_share < 1.0 and not prepared.region.exact
    assert prepared.attributes["qa"]["changed_outside_region"] < 0.01


def test_a_raised_arm_is_named_only_when_it_is_one(tmp_path):
    """The joint itself must rise: here the arm's bone is moved, not turned."""

    def clip(name, y):
        values = np.array([[0, 1, 0], [0, y, 0], [0, 1, 0]])
        path = write_skinned_glb(tmp_path / "a.glb", target="translation", values=values, joint_name=name)
        character = load_character(path)
        return pose_instruction(character, character.animations[0], 0.0, 1.0)

    assert clip("mixamorig:LeftArm", 1.5) == "raise the left arm"
    assert clip("leg_R", 0.5) == "lower the right leg"
    assert clip("mixamorig:LeftArm", 1.1) == "change the pose to the middle of 'wave hello'"
    assert clip("Spine", 1.5).startswith("change the pose")


def test_travel_is_not_part_of_the_pose(tmp_path):
    def walk(tree):
        tree["animations"][0]["channels"].append({"sampler": 1, "target": {"node": 1, "path": "translation"}})
        # An accessor without a buffer view is zeros; the way is put in below.
        tree["accessors"].append({"type": "VEC3", "componentType": 5126, "count": 3})
        tree["animations"][0]["samplers"].append(
            {"input": 5, "output": len(tree["accessors"]) - 1, "interpolation": "LINEAR"}
        )

    path = write_skinned_glb(tmp_path / "a.glb", edit=walk)
    character = load_character(path)
    channel = character.animations[0].channels[1]
    channel.values = np.array([[0.0, 0, 0], [7.0, 0, 0], [0, 0, 0]])
    assert pose_instruction(character, character.animations[0], 0.0, 1.0).startswith("change the pose")
    np.testing.assert_allclose(travel(character, character.animations[0], 0.0, 1.0), (7, 0, 0))


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"skinned": False}, "no_skin"),
        ({"animated": False}, "no_animation"),
        ({"values": TURNS * 0 + TURNS[0]}, "static"),
    ],
)
def test_files_without_poses_say_why(tmp_path, options, reason):
    with pytest.raises(RejectedError) as caught:
        pose_pairs(write_skinned_glb(tmp_path / "a.glb", **options), "CC0-1.0", "nobody")
    assert caught.value.reason == reason


def test_broken_files_are_refused(tmp_path):
    def cycle(tree):
        tree["nodes"][2]["children"] = [1]

    def joint(tree):
        tree["skins"][0]["joints"] = [1]

    def keys(tree):
        tree["accessors"][5]["count"] = 2

    def sampler(tree):
        tree["animations"][0]["channels"][0]["sampler"] = 9

    for edit, reason in ((cycle, "node_cycle"), (joint, "bad_index"), (keys, "broken_file"), (sampler, "broken_file")):
        with pytest.raises(RejectedError) as caught:
            load_character(write_skinned_glb(tmp_path / "a.glb", edit=edit))
        assert caught.value.reason == reason, edit.__name__
    with pytest.raises(RejectedError, match="does not exist"):
        load_character(tmp_path / "none.glb")
    with pytest.raises(Omni123Error, match="licence"):
        pose_pairs(write_skinned_glb(tmp_path / "a.glb"), "", "nobody")


def test_a_static_moment_is_refused_when_it_is_opened(tmp_path):
    path = write_skinned_glb(tmp_path / "a.glb")
    with pytest.raises(RejectedError) as caught:
        PosePairSpec(str(path), "robot", 0, 0.0, 2.0, "CC0-1.0", "nobody").open()
    assert caught.value.reason == "static"
