"""The autoregressive stage on a tiny token set: every task learns, samples are a function of their number, errors are named."""

import json

import numpy as np
import pytest
import torch
from test_image_stages import TOKENIZER_FIELDS
from test_shape_tokenizer_stage import MODEL as SHAPE_FIELDS
from tiny_store import write_tiny_store

from omni123_hf.data.tokens import TokenStore, weights_hash
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration, Omni123ShapeTokenizer, get_task
from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer
from omni123_hf.training import autoregressive
from omni123_hf.training.autoregressive import TaskCollator, TaskSampler
from omni123_hf.training.recipe import Recipe
from omni123_hf.training.runner import CounterDataset


TASKS = {"text-to-3d": 0.4, "text-to-image-to-3d": 0.3, "image-to-3d": 0.1, "3d-to-image": 0.1, "text-to-image": 0.1}
LEVELS = {"short": 0.5, "medium": 0.5}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A store, tokenizers of random weights and token shards that name them."""
    folder = tmp_path_factory.mktemp("ar")
    store = write_tiny_store(folder / "data")
    torch.manual_seed(0)
    from omni123_hf.modeling import Omni123ShapeTokenizerConfig

    Omni123ShapeTokenizer(Omni123ShapeTokenizerConfig(**SHAPE_FIELDS)).save_pretrained(folder / "shape")
    image = Omni123ImageTokenizer(
        Omni123ImageTokenizerConfig(**{**TOKENIZER_FIELDS, "latent_dim": 16, "semantic_dim": 8})
    )
    image.save_pretrained(folder / "image")
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 32, (2, 8)), rng.integers(0, 32, (2, 16))
    flat = np.array([record.captions["short"][0] == "flat box" for record in store.records]).astype(int)
    TokenStore(
        kinds[0][flat],
        np.repeat(kinds[1][flat][:, None], len(ALL_VIEWS), axis=1),
        {
            "data_hash": store.content_hash,
            "views": list(ALL_VIEWS),
            "shape_tokenizer": weights_hash(folder / "shape"),
            "image_tokenizer": weights_hash(folder / "image"),
            "image_vae": weights_hash(folder / "shape"),
        },
    ).save(folder / "tokens")
    return folder


def recipe(workspace, out, steps=60, **options):
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Recipe(
        stage="pretrain",
        output_dir=out,
        data={
            "root": str(workspace / "data"),
            "tokens": str(workspace / "tokens"),
            "shape_tokenizer": str(workspace / "shape"),
            "image_tokenizer": str(workspace / "image"),
            "image_vae": str(workspace / "shape"),
        },
        model={
            "num_shape_codes": 32,
            "num_image_codes": 32,
            "num_shape_tokens": 8,
            "num_image_tokens": 16,
            "hidden_size": 32,
            "num_dual_layers": 2,
            "num_single_layers": 1,
            "num_attention_heads": 2,
            "shape_code_dim": 4,
            "image_code_dim": 4,
            "token_dropout": 0.0,
        },
        options={
            "tokenizer": {"vocab_size": 128, "max_length": 12},
            "tokenizer_2": {"vocab_size": 320, "max_length": 24},
            "text_encoder": {**text, "projection_dim": 16},
            "text_encoder_2": {**text, "num_key_value_heads": 1, "head_dim": 8},
            "image_view": "three_quarter",
            "real_share": 0.5,
            "tasks": TASKS,
            "caption_levels": LEVELS,
            **options,
        },
        training={
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3,
            "logging_steps": 20,
            "save_steps": 1000,
            "disable_tqdm": True,
        },
    )


def make_sampler(workspace, **changes):
    from omni123_hf.data.store import AssetStore

    arguments = {
        "store": AssetStore.open(workspace / "data"),
        "tokens": TokenStore.open(workspace / "tokens"),
        "split": "train",
        "tasks": TASKS,
        "caption_levels": LEVELS,
        "batch_size": 4,
        "real_share": 0.5,
        "image_view": "three_quarter",
        "seed": 0,
        **changes,
    }
    return TaskSampler(**arguments)


def test_the_stage_learns_and_generates_the_shape_its_text_names(workspace, tmp_path):
    metrics = autoregressive.train(recipe(workspace, tmp_path, steps=150))
    assert metrics["eval_loss_text-to-3d"] < 1.0 < np.log(32)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {f"loss_{task}" for task in TASKS} <= {key for line in log for key in line}
    for part in ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        assert (tmp_path / "final" / part).is_dir()
    model = Omni123ForConditionalGeneration.from_pretrained(tmp_path / "final" / "transformer")
    assert model.shape_code_table.abs().sum() > 0


def test_samples_are_a_function_of_their_number_and_a_batch_holds_one_task(workspace):
    data = CounterDataset(make_sampler(workspace), 400, 0)
    again = CounterDataset(make_sampler(workspace), 400, 0)
    assert data[137]["caption"] == again[137]["caption"]
    assert np.array_equal(data[137]["parts"]["shape"], again[137]["parts"]["shape"])
    tasks = [data[k]["task"].name for k in range(400)]
    assert all(len(set(tasks[k : k + 4])) == 1 for k in range(0, 400, 4))
    assert set(tasks) == set(TASKS)
    other = CounterDataset(make_sampler(workspace, seed=1), 400, 1)
    assert [other[k]["task"].name for k in range(400)] != tasks


def test_the_collator_lays_a_prefix_task_out_as_declared(workspace):
    captions = ["flat box", "a plain tall box made of wood"]
    collator = TaskCollator(
        Omni123Config(
            num_shape_codes=32, num_image_codes=32, num_shape_tokens=8, num_image_tokens=16, hidden_size=32,
            num_attention_heads=2,
        ),
        build_clip_tokenizer(captions, 64, 8),
        build_qwen_tokenizer(captions, 300, 16),
    )  # fmt: skip
    sampler = make_sampler(workspace)
    rows = [sampler.sample(get_task("image-to-3d"), "medium", i, np.random.default_rng(i)) for i in (0, 1)]
    batch = collator(rows)
    assert batch["prefix_length"] == 17
    assert batch["input_ids"].shape == (2, 26)
    assert (batch["labels"][:, :18] == -100).all() and (batch["labels"][:, 18:] >= 0).all()
    assert batch["text_ids"].shape == (2, 8) and batch["drop_prefix"].dtype == torch.bool


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": {"text-to-3d": 0.7}}, "sum to 0.7"),
        ({"tasks": {"text-to-4d": 1.0}}, "text-to-4d"),
        ({"tasks": {"edit-3d": 0.0, "text-to-posed-image": 1.0}}, "posed"),
        ({"caption_levels": {"tiny": 1.0}}, "tiny"),
        ({"image_view": "below"}, "'below' has no tokens"),
    ],
)
def test_a_wrong_mixture_stops_before_the_first_step(workspace, tmp_path, options, message):
    with pytest.raises(Omni123Error, match=message):
        autoregressive.train(recipe(workspace, tmp_path, steps=1, **options))


def test_tokens_of_other_tokenizers_are_refused(workspace, tmp_path):
    wrong = recipe(workspace, tmp_path, steps=1)
    wrong.data["shape_tokenizer"] = str(workspace / "image")
    with pytest.raises(Omni123Error, match="another shape_tokenizer"):
        autoregressive.train(wrong)
    with pytest.raises(Omni123Error, match="omni123 train tokenize"):
        TokenStore.open(workspace / "nothing")


def test_a_run_keeps_its_text_tokenizers_and_refuses_others(workspace, tmp_path):
    autoregressive.train(recipe(workspace, tmp_path, steps=1))
    before = (tmp_path / "tokenizer" / "tokenizer.json").read_bytes()
    autoregressive.train(recipe(workspace, tmp_path, steps=1))
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))
    with pytest.raises(Omni123Error, match="output_dir"):
        autoregressive.train(recipe(workspace, tmp_path, steps=1, tokenizer={"vocab_size": 100, "max_length": 12}))
