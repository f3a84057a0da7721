"""Samples are a function of seed and number; views, texts and dropout are drawn as the tasks say."""

from collections import Counter

import numpy as np
import pytest
from tiny_pools import LI, LS, codes_of

from omni123_hf.data.shards.training_pool import TrainingPool
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS, CANONICAL_VIEWS
from omni123_hf.modeling import TASKS, get_task
from omni123_hf.training.mixture import Subset, TaskTable
from omni123_hf.training.runner import CounterDataset
from omni123_hf.training.task_samples import TaskSampler


LEVELS = {"short": 0.5, "medium": 0.5}
MIXED = (
    Subset("pictures", "images", {"text-to-image": 1.0}, 0.3),
    Subset("pairs", "pairs", {"image-to-3d": 0.5, "3d-to-image": 0.5}, 0.7),
)


@pytest.fixture(scope="module")
def pools(pools_workspace):
    return {name: TrainingPool.open(pools_workspace / "shards", name) for name in ("pairs", "images", "edits")}


def make(pools, subsets=MIXED, seed=0, batch=4, **changes) -> TaskSampler:
    return TaskSampler(pools, subsets, changes.pop("table", TaskTable()), LEVELS, batch, seed, **changes)


def same(a, b) -> bool:
    return (a.task, a.text, a.null_text, a.drop_prefix) == (b.task, b.text, b.null_text, b.drop_prefix) and all(
        np.array_equal(a.parts[name], b.parts[name]) for name in a.parts
    )


@pytest.mark.parametrize("batching", ["task", "padded", "packed"])
def test_a_sample_depends_on_seed_and_number_alone(pools, batching):
    first, second = (CounterDataset(make(pools, batching=batching), 400, 0) for _ in range(2))
    for k in (137, 3, 390):
        assert same(first[k], second[k])
    other = CounterDataset(make(pools, seed=1, batching=batching), 400, 1)
    assert not all(same(first[k], other[k]) for k in range(20))


def test_the_number_of_images_is_drawn_for_each_micro_batch(pools):
    chains = (Subset("pairs", "pairs", {"images-to-3d": 0.5, "image-to-3d": 0.5}, 1.0),)
    table = TaskTable(num_images=(3, 1), num_extra_images=(1, 2))
    drawn = CounterDataset(make(pools, chains, table=table), 400, 0)
    counts = [sum(segment.kind == "view" for segment in drawn[k].task.segments) for k in range(400)]
    assert all(len(set(counts[k : k + 4])) == 1 for k in range(0, 400, 4))
    share = Counter(counts)
    assert share.keys() == {0, 1, 3}
    assert share[1] / 400 == pytest.approx(0.25, abs=0.12) and share[3] / 400 == pytest.approx(0.25, abs=0.12)
    assert make(pools, chains, table=table).validation_samples("images-to-3d", 1, 0)[0].task == get_task(
        "images-to-3d", 3
    )


@pytest.mark.parametrize("value", [0, [], [2, 2], [1, 0], 1.5, True, "two"])
def test_numbers_of_images_that_cannot_be(value):
    options = {"num_images": value, "num_extra_images": 1, "text_dropout": None, "prefix_dropout": None}
    with pytest.raises(Omni123Error, match=r"options.num_images is .* give a whole number"):
        TaskTable.from_options(options)


def test_a_micro_batch_holds_one_task_or_each_sample_its_own(pools):
    grouped = CounterDataset(make(pools), 800, 0)
    tasks = [grouped[k].task.name for k in range(800)]
    assert all(len(set(tasks[k : k + 4])) == 1 for k in range(0, 800, 4))
    mixed = CounterDataset(make(pools, batching="packed"), 800, 0)
    own = [mixed[k].task.name for k in range(800)]
    assert any(len(set(own[k : k + 4])) > 1 for k in range(0, 800, 4))
    for names in (tasks, own):
        share = Counter(names)
        assert share["text-to-image"] / 800 == pytest.approx(0.3, abs=0.08)
        assert share["image-to-3d"] / 800 == pytest.approx(0.35, abs=0.08)


def test_every_task_finds_its_codes(pools):
    for name in TASKS:
        pool = "edits" if name == "edit-3d" else "pairs"
        sampler = make(pools, (Subset("all", pool, {name: 1.0}, 1.0),))
        sample = sampler.sample(pools[pool], get_task(name), "short", 0, np.random.default_rng(3))
        number = int(pools[pool].ids[0].split("/")[1])
        views = [s.name for s in sample.task.segments if s.kind == "view"]
        shown = [sample.parts[view] for view in views]
        assert len(set(shown)) == len(shown) and set(shown) <= set(range(6))
        posed = -1
        for segment in sample.task.segments:
            part = sample.parts[segment.name]
            if segment.kind == "view":
                posed = part
                continue
            if segment.kind == "image":
                column = ALL_VIEWS.index(CANONICAL_VIEWS[posed]) if posed >= 0 else ALL_VIEWS.index("three_quarter")
                assert np.array_equal(part, codes_of(number, 1 + column, LI, 32)), (name, segment)
            else:
                kind = 9 if name == "edit-3d" and segment.name == "shape" else 0
                assert np.array_equal(part, codes_of(number, kind, LS, 32)), (name, segment)
            posed = -1


def test_dropout_gives_the_three_regimes_in_their_shares(pools):
    sampler = make(pools, (Subset("all", "pairs", {"image-to-3d": 1.0}, 1.0),))
    data = CounterDataset(sampler, 4000, 0)
    drawn = Counter((s.null_text, s.drop_prefix) for s in (data[k] for k in range(4000)))
    assert drawn[False, False] / 4000 == pytest.approx(0.9, abs=0.02)
    assert drawn[True, False] / 4000 == pytest.approx(0.05, abs=0.015)
    assert drawn[True, True] / 4000 == pytest.approx(0.05, abs=0.015)
    assert (False, True) not in drawn
    none = make(
        pools,
        (Subset("all", "pairs", {"image-to-3d": 1.0}, 1.0),),
        table=TaskTable(text_dropout=0.0, prefix_dropout=0.0),
    )
    assert not any(none(np.random.default_rng(k), k).null_text for k in range(200))


def test_source_shares_and_splits_hold(pools):
    sampler = make(
        pools, (Subset("all", "pairs", {"text-to-3d": 1.0}, 1.0),), source_shares={"parametric": 0.9, "*": 0.1}
    )
    rng = np.random.default_rng(0)
    rows = np.array([sampler.choosers["pairs"](rng) for _ in range(2000)])
    assert (pools["pairs"].sources[rows] == "parametric").mean() == pytest.approx(0.9, abs=0.03)
    assert set(rows) == set(pools["pairs"].indices("train"))
    held = make(pools, (Subset("all", "pairs", {"text-to-3d": 1.0}, 1.0),), split="validation")
    assert {held.choosers["pairs"](rng) for _ in range(100)} == set(pools["pairs"].indices("validation"))
    with pytest.raises(Omni123Error, match="leave no record"):
        make(pools, source_shares={"shapenet": 1.0})
    with pytest.raises(Omni123Error, match="sum to 0.5"):
        make(pools, source_shares={"parametric": 0.5})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batching": "bucketed"}, "batching 'bucketed'"),
        ({"image_view": "below"}, "name one or more"),
        ({"split": "heldout"}, "no records of 'heldout'"),
    ],
)
def test_settings_that_do_not_exist_are_named(pools, changes, message):
    with pytest.raises(Omni123Error, match=message):
        make(pools, **changes)


def test_unknown_caption_levels_are_named(pools):
    with pytest.raises(Omni123Error, match="huge"):
        TaskSampler(pools, MIXED, TaskTable(), {"huge": 1.0}, 4, 0)
