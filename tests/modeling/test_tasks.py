"""The sequence grammar of all 13 tasks."""

import numpy as np
import pytest
import torch

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.configuration_omni123 import Omni123Config
from omni123_hf.modeling.tasks import (
    TASKS,
    build_sequence,
    generation_plan,
    get_task,
    prefix_length,
    sequence_length,
)


KS, KI, LS, LI = 11, 7, 3, 2
SHAPE, IMAGE, VIEW = KS + KI, KS + KI + 1, KS + KI + 3

# P = prefix, T = target; v, i, s = view, image, shape: the whole table in the notation of Table 7.
GRAMMAR = {
    "text-to-image": "Ti",
    "text-to-3d": "Ts",
    "image-to-3d": "Pi Ts",
    "3d-to-image": "Ps Ti",
    "image-to-posed-image": "Pv Pi Tv Ti",
    "3d-to-posed-image": "Ps Tv Ti",
    "text-to-posed-image": "Tv Ti",
    "text-to-image-to-3d": "Ti Ts",
    "text-to-3d-to-image": "Ts Tv Ti",
    "images-to-3d": "Pv Pi Pv Pi Ts",
    "3d-to-images": "Ps Tv Ti Tv Ti",
    "text-to-images-to-3d-to-images": "Tv Ti Tv Ti Ts Tv Ti",
    "edit-3d": "Ps Ts",
}


@pytest.fixture
def config() -> Omni123Config:
    return Omni123Config(
        num_shape_codes=KS, num_image_codes=KI, num_shape_tokens=LS, num_image_tokens=LI, hidden_size=8,
        num_attention_heads=2, num_dual_layers=1, num_single_layers=1,
    )  # fmt: skip


def parts_of(task, rng, batch=None):
    shape = () if batch is None else (batch,)
    sizes = {"image": (LI, KI), "shape": (LS, KS)}
    return {
        s.name: rng.integers(0, sizes[s.kind][1], (*shape, sizes[s.kind][0]))
        for s in task.segments
        if s.kind != "view"
    }


def test_there_are_thirteen_rows():
    assert list(TASKS) == list(GRAMMAR)


@pytest.mark.parametrize("name", GRAMMAR)
def test_ids_and_labels_of_every_task(name, config):
    task = get_task(name, num_images=2, num_extra_images=1)
    parts = parts_of(task, np.random.default_rng(0))
    ids, labels, prefix = [], [], 0
    for piece, segment in zip(GRAMMAR[name].split(), task.segments, strict=True):
        assert {"i": "image", "s": "shape", "v": "view"}[piece[1]] == segment.kind
        if piece[1] == "v":
            new, loss = [VIEW + segment.default_view], [-100]
        else:
            codes = [int(c) + (KS if piece[1] == "i" else 0) for c in parts[segment.name]]
            new = [IMAGE if piece[1] == "i" else SHAPE, *codes]
            loss = [-100, *codes] if piece[0] == "T" else [-100] * len(new)
        ids, labels = ids + new, labels + loss
        prefix += len(new) if piece[0] == "P" else 0
    sequence = build_sequence(task, parts, config)
    assert sequence.ids.tolist() == ids
    assert sequence.labels.tolist() == labels
    assert sequence.prefix_length == prefix == prefix_length(task, config)
    assert len(ids) == sequence_length(task, config)


@pytest.mark.parametrize("name", GRAMMAR)
def test_plan_and_training_sequence_agree(name, config):
    """What is prefilled, forced and sampled is exactly the training sequence, and what is sampled has the loss."""
    task = get_task(name, num_images=2, num_extra_images=1)
    parts = parts_of(task, np.random.default_rng(1), batch=2)
    sequence = build_sequence(task, parts, config)
    sources = {s.name for s in task.prefix}
    plan = generation_plan(task, config, {k: v for k, v in parts.items() if k in sources})
    ids, labels, prefix = [], [], 0
    for step in plan:
        if step.action == "sample":
            codes = torch.as_tensor(parts[step.name]) + (0 if step.modality == "shape" else KS)
            assert codes.shape[1] == step.count
            ids.append(codes)
            labels.append(codes)
        else:
            ids.append(step.ids.expand(2, -1))
            labels.append(torch.full_like(ids[-1], -100))
            prefix += step.ids.shape[1] if step.action == "prefill" else 0
    assert torch.equal(torch.cat(ids, 1), sequence.ids)
    assert torch.equal(torch.cat(labels, 1), sequence.labels)
    assert prefix == sequence.prefix_length


def test_given_targets_are_forced_not_prefilled(config):
    plan = generation_plan(get_task("text-to-image-to-3d"), config, {"image": np.zeros(LI, dtype=np.uint16)})
    assert [step.action for step in plan] == ["force", "force", "force", "sample"]
    assert plan[1].ids.tolist() == [[KS] * LI]


def test_views_take_an_index_or_one_per_row(config):
    task = get_task("3d-to-posed-image")
    parts = parts_of(task, np.random.default_rng(2), batch=2)
    sequence = build_sequence(task, {**parts, "view": np.array([1, 5])}, config)
    assert sequence.ids[:, 1 + LS].tolist() == [VIEW + 1, VIEW + 5]
    assert sequence.ids.shape == (2, sequence_length(task, config))


def test_causal_sources_put_loss_on_the_whole_sequence(config):
    task = get_task("images-to-3d", num_images=1).with_causal_sources()
    sequence = build_sequence(task, parts_of(task, np.random.default_rng(3)), config)
    assert sequence.prefix_length == 0 and task.prefix_dropout == 0.0
    assert (sequence.labels != -100).sum() == LI + LS


def test_dropout_regimes_have_their_probabilities():
    rng = np.random.default_rng(4)
    draws = np.array([TASKS["image-to-3d"].draw_dropout(rng) for _ in range(20000)])
    assert draws.mean(0) == pytest.approx([0.1, 0.05], abs=0.008)
    assert not (draws[:, 1] & ~draws[:, 0]).any()
    assert not any(TASKS["text-to-3d"].draw_dropout(rng)[1] for _ in range(2000))
    assert {t.name: t.prefix_dropout for t in TASKS.values() if bool(t.prefix) != (t.prefix_dropout == 0.05)} == {}


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("text-to-3d", {}, "needs the codes of shape"),
        ("text-to-3d", {"shape": [0, 1]}, r"give \(3,\)"),
        ("text-to-3d", {"shape": [0, 1, KS]}, "codes 0 to 10"),
        ("text-to-3d", {"shape": [0, -1, 2]}, "codes 0 to 10"),
        ("text-to-3d", {"shape": [0.0, 1.0, 2.0]}, "must be integers"),
        ("text-to-3d", {"shape": [0, 1, 2], "image": [0, 0]}, "has no segment 'image'"),
        ("text-to-posed-image", {"image": [0, 1], "view": 6}, "from 0 to 5"),
        ("image-to-3d", {"image": [[0, 1]] * 2, "shape": [[0, 1, 2]] * 3}, "different batch sizes"),
    ],
)
def test_bad_parts_name_the_problem(name, parts, message, config):
    with pytest.raises(Omni123Error, match=message):
        build_sequence(get_task(name), parts, config)


def test_unknown_task_and_missing_prefix_are_refused(config):
    with pytest.raises(Omni123Error, match="There is no task 'text-to-4d'"):
        get_task("text-to-4d")
    with pytest.raises(Omni123Error, match="num_images 0"):
        get_task("images-to-3d", num_images=0)
    with pytest.raises(Omni123Error, match="needs the codes of source_shape"):
        generation_plan(get_task("edit-3d"), config)
