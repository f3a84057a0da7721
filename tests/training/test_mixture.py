"""Eq. 2 by hand, explicit probabilities, and what a pool can serve."""

import pytest
from tiny_pools import KI, LI, QUIET, codes_of, tiny_recipe

from omni123_hf.data.shards.edits import EditTokens, write_edits
from omni123_hf.data.shards.training_pool import TrainingPool
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import TASKS, get_task
from omni123_hf.training.mixture import TaskTable, build_mixture, mixture_probabilities, posed_views, why_not


SIZES = {"text-image": 63.7e6, "image-3d": 120e6, "text-3d": 9e6}
PRIORITIES = {"text-image": 1.0, "image-3d": 1.5, "text-3d": 3.0}
PRINTED = {"text-image": 0.30, "image-3d": 0.53, "text-3d": 0.17}


@pytest.fixture(scope="module")
def pools(pools_workspace):
    return {name: TrainingPool.open(pools_workspace / "shards", name) for name in ("pairs", "images", "edits")}


def build(pools, **options):
    return build_mixture(options, pools, TaskTable())


def test_eq_2_is_the_formula_of_the_paper():
    weights = {name: SIZES[name] ** 0.5 * PRIORITIES[name] for name in SIZES}
    found = mixture_probabilities(SIZES, PRIORITIES, 0.5)
    for name, weight in weights.items():
        assert found[name] == pytest.approx(weight / sum(weights.values()))
    assert mixture_probabilities(SIZES, dict.fromkeys(SIZES, 1.0), 1.0)["text-3d"] == pytest.approx(9 / 192.7)


def test_no_temperature_gives_the_probabilities_that_table_5_prints():
    """Why the paper's recipe states its probabilities: the paper's own formula never gives them."""
    for step in range(1, 1001):
        found = mixture_probabilities(SIZES, PRIORITIES, step / 1000)
        assert max(abs(found[name] - PRINTED[name]) for name in PRINTED) > 0.01


def test_explicit_probabilities_win_over_eq_2(pools):
    lines = {
        "a": {"pool": "images", "tasks": ["text-to-image"], "priority": 9.0, "probability": 0.25},
        "b": {"pool": "pairs", "tasks": {"image-to-3d": 0.5, "3d-to-image": 0.5}, "probability": 0.75},
    }
    a, b = build(pools, mixture=lines)
    assert (a.probability, b.probability) == (0.25, 0.75)
    assert b.tasks == {"image-to-3d": 0.5, "3d-to-image": 0.5}
    without = {name: {k: v for k, v in line.items() if k != "probability"} for name, line in lines.items()}
    a, b = build(pools, mixture=without, mixture_temperature=0.5)
    # Both pools hold nine training records, so only the priorities count.
    assert a.probability == pytest.approx(0.9)
    sized = {"a": {**without["a"], "size": 100, "priority": 1.0}, "b": {**without["b"], "size": 400}}
    assert build(pools, mixture=sized, mixture_temperature=0.5)[0].probability == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "either tasks or mixture"),
        ({"tasks": {"text-to-3d": 0.5}}, "sum to 0.5"),
        ({"tasks": {"text-to-3d": "half"}}, "sum to nan"),
        ({"tasks": {"text-to-4d": 1.0}}, "no task 'text-to-4d'"),
        ({"mixture": {}}, "must map names"),
        ({"mixture": {"pairs": {"tasks": ["text-to-3d"], "weight": 2}}}, "must have tasks and may have"),
        ({"mixture": {"x": {"pool": "videos", "tasks": ["text-to-3d"], "probability": 1.0}}}, "pool 'videos'"),
        ({"mixture": {"images": {"tasks": ["text-to-3d"]}}}, "no shape tokens"),
        ({"mixture": {"pairs": {"tasks": ["edit-3d"]}}}, "editing pairs"),
        ({"mixture": {"edits": {"tasks": ["text-to-3d"]}}}, "serve edit-3d only"),
        (
            {
                "mixture": {
                    "pairs": {"tasks": ["text-to-3d"], "probability": 0.5},
                    "images": {"tasks": ["text-to-image"]},
                }
            },
            "give all or none",
        ),
        (
            {
                "mixture": {"pairs": {"tasks": ["text-to-3d"]}, "images": {"tasks": "text-to-image"}},
                "mixture_temperature": 0,
            },
            "in \\(0, 1\\]",
        ),
    ],
)
def test_what_cannot_be_mixed_is_named(pools, options, message):
    with pytest.raises(Omni123Error, match=message):
        build(pools, **options)


def test_pairs_of_pictures_are_no_edits_of_shapes(tmp_path):
    codes = [codes_of(0, part, LI, KI) for part in range(2)]
    facts = {"source": "x", "split": "train", "licence": "CC0-1.0", "attribution": "nobody", "category": "box"}
    pair = EditTokens(
        "edit/0", **facts, source_tokens=codes[0], target_tokens=codes[1], instructions=("redden",), edit_type="colour"
    )
    write_edits(tmp_path, [pair], KI, {}, kind="image", options=QUIET)
    assert "its pairs are pictures" in why_not(get_task("edit-3d"), TrainingPool.open(tmp_path, "edits"))


def test_every_task_has_a_pool_that_serves_it(pools):
    for name in TASKS:
        serving = [pool for pool in pools.values() if not why_not(get_task(name), pool)]
        assert serving, name
    many = get_task("text-to-images-to-3d-to-images", num_images=5, num_extra_images=2)
    assert "7 posed views, and its records have 6" in why_not(many, pools["pairs"])
    assert len(posed_views(pools["pairs"])) == 6 and not posed_views(pools["images"])


def test_a_mixture_that_names_a_missing_pool_stops_before_the_first_step(pools_workspace, tmp_path):
    from omni123_hf.training import autoregressive

    recipe = tiny_recipe(pools_workspace, tmp_path / "run", steps=1)
    del recipe.data["pools"]["pairs"]
    with pytest.raises(Omni123Error, match="pool 'pairs'"):
        autoregressive.train(recipe)
    recipe.data["pools"] = {"pairs": {"folder": "x"}}
    with pytest.raises(Omni123Error, match="must be a mapping of shards"):
        autoregressive.train(recipe)
    assert not (tmp_path / "run").exists()
