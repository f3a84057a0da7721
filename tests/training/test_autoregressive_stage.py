"""The autoregressive stages on tiny pools: every task learns, later stages go on from earlier ones, errors are named."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_pools import save_tokenizers, tiny_recipe
from tiny_store import write_tiny_store

from omni123_hf.data.tokens import TokenStore, weights_hash
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.modeling import TASKS, Omni123ForConditionalGeneration
from omni123_hf.training import autoregressive
from omni123_hf.training.autoregressive import AR_STAGES
from omni123_hf.training.stages import get_stage


@pytest.fixture(scope="module")
def pretrained(pools_workspace, tmp_path_factory):
    """A short pre-training run on three pools, as the beginning of later stages."""
    out = tmp_path_factory.mktemp("pretrain")
    mixture = {
        "text-image": {"pool": "images", "tasks": ["text-to-image"], "probability": 0.3},
        "image-3d": {"pool": "pairs", "tasks": ["image-to-3d", "3d-to-image"], "probability": 0.3},
        "text-3d": {"pool": "pairs", "tasks": ["text-to-3d"], "probability": 0.4},
    }
    metrics = autoregressive.train(tiny_recipe(pools_workspace, out, steps=60, mixture=mixture))
    return out, metrics


def later(workspace, pretrained, out, stage, steps=3, **options):
    recipe = tiny_recipe(workspace, out, stage, steps, {"from_pretrained": str(pretrained[0] / "final")}, **options)
    return get_stage(stage)(recipe)


def read_log(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_pre_training_learns_all_four_tasks_of_table_4(pretrained):
    out, metrics = pretrained
    tasks = {"text-to-image", "image-to-3d", "3d-to-image", "text-to-3d"}
    assert {f"eval_loss_{task}" for task in tasks} <= set(metrics)
    keys = {key for line in read_log(out) for key in line}
    assert {f"loss_{task}" for task in tasks} | {"loss_shape_tokens", "loss_image_tokens"} <= keys
    losses = [line["loss"] for line in read_log(out) if "loss" in line]
    # The logged loss is a mean over target tokens, so an untrained model is at the logarithm of its 32 codes.
    assert losses[-1] < losses[0] < np.log(32) * 1.05
    for part in ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        assert (out / "final" / part).is_dir()
    model = Omni123ForConditionalGeneration.from_pretrained(out / "final" / "transformer")
    assert model.shape_code_table.abs().sum() > 0


def test_continued_training_begins_with_new_view_tokens_and_trains_them(pools_workspace, pretrained, tmp_path):
    old = Omni123ForConditionalGeneration.from_pretrained(pretrained[0] / "final" / "transformer")
    tasks = {"image-to-posed-image": 0.4, "3d-to-posed-image": 0.2, "text-to-posed-image": 0.2, "text-to-3d": 0.2}
    metrics = later(pools_workspace, pretrained, tmp_path / "a", "continued", steps=2, tasks=tasks)
    assert {f"eval_loss_{task}" for task in tasks} <= set(metrics)
    new = Omni123ForConditionalGeneration.from_pretrained(tmp_path / "a" / "final" / "transformer")
    views = slice(old.config.view_offset, None)
    # Drawn anew (as far from the old ones as from anything), while all else has moved by two small steps only.
    moved = (new.embed_tokens.weight - old.embed_tokens.weight).abs()
    assert moved[views].mean() > 3 * moved[: old.config.view_offset].mean() > 0
    later(pools_workspace, pretrained, tmp_path / "b", "continued", steps=2, tasks=tasks, new_view_embeddings=False)
    kept = Omni123ForConditionalGeneration.from_pretrained(tmp_path / "b" / "final" / "transformer")
    assert (kept.embed_tokens.weight - old.embed_tokens.weight).abs()[views].mean() < moved[views].mean() / 2


def test_a_model_without_views_gets_six(pools_workspace, tmp_path):
    recipe = tiny_recipe(pools_workspace, tmp_path / "p", steps=1, tasks={"text-to-3d": 1.0})
    recipe.model["num_views"] = 0
    autoregressive.train(recipe)
    initial = {"from_pretrained": str(tmp_path / "p" / "final")}
    tasks = {"text-to-posed-image": 1.0}
    get_stage("continued")(tiny_recipe(pools_workspace, tmp_path / "c", "continued", 1, initial, tasks=tasks))
    model = Omni123ForConditionalGeneration.from_pretrained(tmp_path / "c" / "final" / "transformer")
    assert model.config.num_views == 6


def test_interleaved_chains_and_edits_train(pools_workspace, pretrained, tmp_path):
    chains = {name: 0.2 for name, task in TASKS.items() if task.stage == "sft"}
    metrics = later(
        pools_workspace, pretrained, tmp_path / "sft", "sft", tasks=chains, num_images=2, num_extra_images=1
    )
    assert {f"eval_loss_{name}" for name in chains} <= set(metrics)
    edit = later(
        pools_workspace,
        pretrained,
        tmp_path / "edit",
        "edit",
        mixture={"edits": {"tasks": ["edit-3d"]}},
    )
    assert np.isfinite(edit["eval_loss_edit-3d"])


@pytest.mark.parametrize("stage", [name for name, stage in AR_STAGES.items() if stage.needs_initial])
def test_later_stages_need_a_trained_model(pools_workspace, tmp_path, stage):
    with pytest.raises(Omni123Error, match="goes on from a trained model"):
        get_stage(stage)(tiny_recipe(pools_workspace, tmp_path / "x", stage, 1))
    initial = {"from_pretrained": str(tmp_path)}
    with pytest.raises(Omni123Error, match="lacks transformer, text_encoder, tokenizer"):
        get_stage(stage)(tiny_recipe(pools_workspace, tmp_path / "x", stage, 1, initial))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_a_run_on_batches_of_several_tasks_learns_too(pools_workspace, tmp_path, batching):
    recipe = tiny_recipe(pools_workspace, tmp_path, steps=40, batching=batching, pack_multiple=16)
    metrics = autoregressive.train(recipe)
    losses = [line["loss"] for line in read_log(tmp_path) if "loss" in line]
    assert losses[-1] < losses[0] and np.isfinite(metrics["eval_loss"])


def test_the_recipe_chooses_attention_and_the_checkpoint_does_not_keep_it(pools_workspace, tmp_path, monkeypatch):
    seen = []
    forward = Omni123ForConditionalGeneration.forward

    def recorded(self, *args, **kwargs):
        seen.append(self.config._attn_implementation)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Omni123ForConditionalGeneration, "forward", recorded)
    autoregressive.train(tiny_recipe(pools_workspace, tmp_path, steps=1, attention="eager"))
    assert set(seen) == {"eager"}
    saved = Omni123ForConditionalGeneration.from_pretrained(tmp_path / "final" / "transformer")
    assert saved.config._attn_implementation == "sdpa"


def test_token_weighting_is_that_of_one_large_batch(pools_workspace, tmp_path):
    """Micro-batches of unequal tasks: accumulated, every token of the step weighs alike."""
    finals = []
    for name, batch, steps in (("one", 4, 1), ("four", 1, 4)):
        recipe = tiny_recipe(pools_workspace, tmp_path / name, steps=2, batching="padded")
        recipe.training |= {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": steps,
            "logging_steps": 1,
            "optim": "sgd",
        }
        recipe.options["validation_batches"] = 1
        # The text tokenizers' trainer breaks ties at random: both runs read text alike.
        if finals:
            recipe.options |= {kind: str(tmp_path / "one" / "final" / kind) for kind in ("tokenizer", "tokenizer_2")}
        autoregressive.train(recipe)
        model = Omni123ForConditionalGeneration.from_pretrained(tmp_path / name / "final" / "transformer")
        finals.append(model.state_dict())
    logs = [[line["loss"] for line in read_log(tmp_path / name) if "loss" in line] for name in ("one", "four")]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    for name, value in finals[0].items():
        torch.testing.assert_close(finals[1][name], value, atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def store_workspace(tmp_path_factory):
    """The short form: a prepared data set with a token folder."""
    folder = tmp_path_factory.mktemp("ar")
    store = write_tiny_store(folder / "data")
    folders = save_tokenizers(folder)
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 32, (2, 8)), rng.integers(0, 32, (2, 16))
    flat = np.array([record.captions["short"][0] == "flat box" for record in store.records]).astype(int)
    TokenStore(
        kinds[0][flat],
        np.repeat(kinds[1][flat][:, None], len(ALL_VIEWS), axis=1),
        {
            "data_hash": store.content_hash,
            "views": list(ALL_VIEWS),
            **{name: weights_hash(path) for name, path in folders.items()},
        },
    ).save(folder / "tokens")
    return folder


def store_recipe(workspace, out, steps=1, **options):
    recipe = tiny_recipe(workspace, out, steps=steps, **options)
    del recipe.data["pools"]
    recipe.data |= {"root": str(workspace / "data"), "tokens": str(workspace / "tokens")}
    return recipe


def test_the_short_form_learns_to_generate_what_the_text_names(store_workspace, tmp_path):
    tasks = {"text-to-3d": 0.5, "text-to-image-to-3d": 0.5}
    metrics = autoregressive.train(
        store_recipe(store_workspace, tmp_path, 150, tasks=tasks, real_share=0.5, loss_weighting="micro-batch")
    )
    assert metrics["eval_loss_text-to-3d"] < 1.0 < np.log(32)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tasks": {"text-to-3d": 0.5}}, "sum to 0.5"),
        ({"real_share": 2.0}, "must lie in"),
        ({"real_share": 0.5, "source_shares": {"*": 1.0}}, "give one"),
        ({"loss_weighting": "sample"}, "loss_weighting 'sample'"),
        ({"attention": "flash"}, "attention 'flash' does not exist"),
        ({"attention": "flex_attention"}, "no backward pass on the CPU"),
        ({"weighting": 1}, "no option weighting"),
        ({"tasks": {"edit-3d": 1.0}}, "editing pairs"),
    ],
)
def test_wrong_options_stop_before_the_first_step(store_workspace, tmp_path, options, message):
    with pytest.raises(Omni123Error, match=message):
        autoregressive.train(store_recipe(store_workspace, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_tokens_of_other_tokenizers_or_sizes_are_refused(store_workspace, pools_workspace, tmp_path):
    wrong = store_recipe(store_workspace, tmp_path / "run")
    wrong.data["shape_tokenizer"] = wrong.data["image_tokenizer"]
    with pytest.raises(Omni123Error):
        autoregressive.train(wrong)
    other = tiny_recipe(pools_workspace, tmp_path / "run", steps=1)
    other.data["image_vae"] = other.data["image_tokenizer"]
    with pytest.raises(Omni123Error, match="another image_vae"):
        autoregressive.train(other)
    short = tiny_recipe(pools_workspace, tmp_path / "run", steps=1)
    short.model["num_shape_tokens"] = 7
    with pytest.raises(Omni123Error, match="the model reads 7 of 32"):
        autoregressive.train(short)
    lacking = tiny_recipe(pools_workspace, tmp_path / "run", steps=1)
    del lacking.data["image_vae"]
    with pytest.raises(Omni123Error, match="names none"):
        autoregressive.train(lacking)
    with pytest.raises(Omni123Error, match="omni123 train tokenize"):
        TokenStore.open(store_workspace / "nothing")


def test_a_run_keeps_its_text_tokenizers_and_refuses_others(pools_workspace, tmp_path):
    autoregressive.train(tiny_recipe(pools_workspace, tmp_path, steps=1))
    before = (tmp_path / "tokenizer" / "tokenizer.json").read_bytes()
    autoregressive.train(tiny_recipe(pools_workspace, tmp_path, steps=1))
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))
    changed = tiny_recipe(pools_workspace, tmp_path, steps=1, tokenizer={"vocab_size": 100, "max_length": 12})
    with pytest.raises(Omni123Error, match="output_dir"):
        autoregressive.train(changed)


def test_the_stages_cover_the_task_table():
    assert Counter(task.stage for task in TASKS.values()) == {"pretraining": 4, "continued": 3, "sft": 5, "edit": 1}
    assert set(AR_STAGES) == {"pretrain", "continued", "sft", "edit"}
