"""Two poses of one character are an editing pair (paper §5): frames of an animation, by linear blend skinning.

All pairs of a character are in one split. The frame of a pair is the box around both poses; a walk cycle that moves
through the scene is first brought back, so that the pose is the edit and not the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omni123_hf.data.assets import asset_rng
from omni123_hf.data.bounded_asset import UNKNOWN_LICENCE
from omni123_hf.data.editing.frames import pair_frame, placed
from omni123_hf.data.editing.instructions import instruction_levels
from omni123_hf.data.editing.pair_specs import OpenedPair
from omni123_hf.data.editing.records import EditPair, EditSide
from omni123_hf.data.editing.skinning import Animation, SkinnedCharacter, load_character
from omni123_hf.data.inputs.licences import normalise_licence
from omni123_hf.data.splits import split_of
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading import LoadLimits


# Of the character's height: less motion than this is not worth an instruction.
MIN_MOTION = 0.05
# A hand must clear this much of the height to be "raised", and the rest of the body must move far less.
RAISED = 0.15
STILL = 0.06
LIMBS = {"arm": r"arm|hand|wrist|elbow", "leg": r"leg|foot|ankle|knee|thigh|shin"}
SIDE_WORDS = {"left": r"left|(?<![a-z])l(?![a-z])", "right": r"right|(?<![a-z])r(?![a-z])"}


@dataclass(frozen=True)
class PosePairSpec:
    """Two moments of a clip of a character file. name: the noun that instructions use ("robot")."""

    path: str
    name: str
    animation: int
    source_time: float
    target_time: float
    licence: str
    attribution: str
    split_seed: int = 0

    @property
    def id(self) -> str:
        """`edit/pose/{file}/{animation}/{milliseconds}-{milliseconds}`."""
        moments = "-".join(f"{round(1000 * t):06d}" for t in (self.source_time, self.target_time))
        return f"edit/pose/{Path(self.path).stem}/{self.animation:02d}/{moments}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The character's."""
        return (Path(self.path),)

    def open(self) -> OpenedPair:
        """Pose both sides. Raises RejectedError: "static" when they agree, and the reasons of `load_character`."""
        character = load_character(self.path)
        if not 0 <= self.animation < len(character.animations):
            raise RejectedError("no_animation", f"{self.path} has no animation {self.animation}")
        clip = character.animations[self.animation]
        times = (self.source_time, self.target_time)
        meshes = [character.pose(clip, time) for time in times]
        meshes[1].apply_translation(-travel(character, clip, *times))
        height = max(float(np.ptp(mesh.vertices, axis=0).max()) for mesh in meshes)
        motion = float(np.linalg.norm(meshes[0].vertices - meshes[1].vertices, axis=1).max())
        if motion < MIN_MOTION * height:
            raise RejectedError(
                "static", f"between {times[0]:.3f} s and {times[1]:.3f} s nothing moves by 5 % of the height"
            )
        forward, backward = (pose_instruction(character, clip, *order) for order in (times, times[::-1]))
        rng = asset_rng("edit", self.id)
        stem = Path(self.path).stem
        pair = EditPair(
            id=self.id,
            object_id=f"pose/{stem}",
            source=self._side(stem, self.source_time),
            target=self._side(stem, self.target_time),
            instructions=instruction_levels(forward, self.name, False, rng),
            inverse_instructions=instruction_levels(backward, self.name, False, rng),
            edit_type="pose",
            generator_chain=("skeletal animation",),
            licence=self.licence,
            attribution=self.attribution,
            split=split_of(f"pose/{stem}", self.split_seed),
            attributes={"animation": clip.name, "motion": round(motion / height, 4)},
        )
        frame = pair_frame(*meshes)
        captions = {"short": [self.name], "medium": [], "long": []}
        return OpenedPair(pair, "character", placed(meshes[0], frame), placed(meshes[1], frame), captions, captions)

    def _side(self, stem: str, time: float) -> EditSide:
        reference = {"path": Path(self.path).name, "animation": self.animation, "seconds": time}
        return EditSide(f"pose/{stem}/{self.animation:02d}/{round(1000 * time):06d}", "pose", reference)


def pose_pairs(
    path: str | Path,
    licence: str,
    attribution: str,
    name: str = "character",
    poses: int = 4,
    limits: LoadLimits | None = None,
) -> list[PosePairSpec]:
    """Pairs of a character file: `poses` moments spread over each clip, each with the next one and the first with the last.

    A file without a skin or animation raises RejectedError "no_skin" or "no_animation", one whose clips never move
    anything "static"; a missing licence or attribution raises `Omni123Error`.
    """
    licence = normalise_licence(licence)
    if licence == UNKNOWN_LICENCE or not attribution.strip():
        raise Omni123Error(f"{path}: state the licence and the attribution of the character")
    if poses < 2:
        raise Omni123Error(f"poses must be at least 2, got {poses}")
    character = load_character(path, limits)
    specs = []
    for index, clip in enumerate(character.animations):
        start = min(float(channel.times[0]) for channel in clip.channels)
        # Loops end where they begin: the last moment stands before the end.
        moments = start + (clip.duration - start) * np.arange(poses) / poses
        meshes = [character.pose(clip, float(time)).vertices for time in moments]
        height = max(float(np.ptp(vertices, axis=0).max()) for vertices in meshes)
        chosen = {(i, i + 1) for i in range(poses - 1)} | {(0, poses - 1)}
        for a, b in sorted(chosen):
            if float(np.linalg.norm(meshes[a] - meshes[b], axis=1).max()) >= MIN_MOTION * height:
                specs.append(
                    PosePairSpec(str(path), name, index, float(moments[a]), float(moments[b]), licence, attribution)
                )
    if not specs:
        raise RejectedError(
            "static", f"{Path(path).name}: its animations move nothing by 5 % of the character's height"
        )
    return specs


def pose_instruction(character: SkinnedCharacter, clip: Animation, source_time: float, target_time: float) -> str:
    """ "raise the left arm" when the joints' names and heights say so and no other limb moves as far, otherwise "change
    the pose to ..." with the clip's name and moment."""
    before, after = (character.joint_positions(clip, time) for time in (source_time, target_time))
    way = travel(character, clip, source_time, target_time)
    height = max(float(np.ptp(np.stack(list(before.values())), axis=0).max()), 1e-9)
    moves: dict[str, list[np.ndarray]] = {}
    for node, position in before.items():
        joint = re.sub(r"([a-z])([A-Z])", r"\1 \2", str(character.nodes[node].get("name", ""))).lower()
        moves.setdefault(_limb(joint), []).append((after[node] - way - position) / height)
    reach = {limb: max(each, key=lambda move: float(np.linalg.norm(move))) for limb, each in moves.items()}
    far = [limb for limb, move in reach.items() if np.linalg.norm(move) > STILL]
    if len(far) == 1 and far[0] and abs(reach[far[0]][1]) >= RAISED:
        return f"{'raise' if reach[far[0]][1] > 0 else 'lower'} the {far[0]}"
    return f"change the pose to {pose_name(clip, target_time)}"


def pose_name(clip: Animation, time: float) -> str:
    """ "the middle of 'walk cycle'": the clip in plain words and the part of it."""
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", re.split(r"[|:]", clip.name)[-1])
    words = re.sub(r"[^a-z0-9]+", " ", words.lower()).strip() or "the animation"
    place = time / clip.duration
    moment = "start" if place < 0.2 else "end" if place > 0.8 else "middle"
    return f"the {moment} of '{words}'"


def _limb(joint: str) -> str:
    """ "left arm" of a joint's name in lower case; "" for the trunk and joints that say nothing."""
    sides = [side for side, pattern in SIDE_WORDS.items() if re.search(pattern, joint)]
    limbs = [limb for limb, pattern in LIMBS.items() if re.search(pattern, joint)]
    return f"{sides[0]} {limbs[0]}" if len(sides) == len(limbs) == 1 else ""


def travel(character: SkinnedCharacter, clip: Animation, source_time: float, target_time: float) -> np.ndarray:
    """The way (3,) that the character covers along the floor; its first joint is the hip or the root."""
    root = character.parts[0].skin_joints[0]
    first, second = (character.joint_positions(clip, time)[root] for time in (source_time, target_time))
    return (second - first) * (1.0, 0.0, 1.0)
