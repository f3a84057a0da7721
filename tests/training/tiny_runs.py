"""Tiny runs of every stage, started as processes that can be killed: what tests of resuming and of several ranks share."""

import atexit
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from tiny_store import write_tiny_store

from omni123_hf.data.tokens import TokenStore, weights_hash
from omni123_hf.geometry.cameras import ALL_VIEWS
from omni123_hf.modeling import Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig
from omni123_hf.modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from omni123_hf.modeling.configuration_image_vae import Omni123ImageVAEConfig
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer


HEADS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SHAPE = {
    "num_latents": 8,
    "num_codes": 32,
    "code_dim": 4,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_encoder_layers": 1,
    "encoder_cross_attention_layers": [0],
    "num_decoder_layers": 1,
    "num_frequencies": 4,
}
VAE = {
    "encoder_config": {
        **HEADS,
        "patch_size": 4,
        "num_register_tokens": 1,
        "pos_embed_rescale": None,
        "image_size": 16,
    },
    "freeze_encoder": False,
    "freeze_semantic": False,
    "semantic_dim": 8,
    "texture_dim": 8,
    "texture_taps": [0],
    "texture_hidden_size": 16,
    "decoder_hidden_size": 16,
    "num_decoder_layers": 1,
    "num_decoder_heads": 2,
    "upsampler_channels": [8, 8],
    "upsampler_blocks": 1,
}
IMAGE = {
    "num_tokens": 16,
    "num_codes": 32,
    "code_dim": 4,
    "encoder_hidden_size": 32,
    "num_encoder_layers": 1,
    "num_encoder_heads": 2,
    "decoder_hidden_size": 32,
    "num_decoder_layers": 1,
    "num_decoder_heads": 2,
    "entropy_tokens": 64,
    "quantizer_warmup_steps": 9,
    "restart_after": 3,
}
BACKBONE = {
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
}


def make_workspace(folder: Path) -> Path:
    """A tiny prepared data set in `data`, random tokenizers in `shape`, `image` and `vae`, tokens in `tokens`."""
    store = write_tiny_store(folder / "data")
    torch.manual_seed(0)
    Omni123ShapeTokenizer(Omni123ShapeTokenizerConfig(**SHAPE)).save_pretrained(folder / "shape")
    Omni123ImageVAE(Omni123ImageVAEConfig(**VAE)).save_pretrained(folder / "vae")
    fields = {**IMAGE, "latent_dim": 16, "semantic_dim": 8}
    Omni123ImageTokenizer(Omni123ImageTokenizerConfig(**fields)).save_pretrained(folder / "image")
    # Built once: two builds of a tokenizer can break ties between equally frequent pairs in two ways.
    captions = [text for record in store.records for texts in record.captions.values() for text in texts]
    build_clip_tokenizer(captions, 128, 12).save_pretrained(folder / "tokenizer")
    build_qwen_tokenizer(captions, 320, 24).save_pretrained(folder / "tokenizer_2")
    rng = np.random.default_rng(0)
    hashes = {f"{part}_tokenizer": weights_hash(folder / part) for part in ("shape", "image")}
    TokenStore(
        rng.integers(0, 32, (len(store), 8)),
        rng.integers(0, 32, (len(store), len(ALL_VIEWS), 16)),
        {
            "data_hash": store.content_hash,
            "views": list(ALL_VIEWS),
            "image_vae": weights_hash(folder / "vae"),
            **hashes,
        },
    ).save(folder / "tokens")
    return folder


def stage_recipe(stage: str, workspace: Path, output: Path, **training: Any) -> dict[str, Any]:
    """The recipe of a stage as plain data: ten steps, a checkpoint every four, a line of the log every three."""
    parts: dict[str, dict[str, Any]] = {
        "shape-tokenizer": {
            "model": {**SHAPE, "ssl_num_prototypes": 16, "ssl_head_size": 16, "ssl_bottleneck_size": 8},
            "options": {"points": 32, "queries": 64, "vq_warmup_steps": 6, "self_distillation": True},
        },
        "image-vae": {"model": VAE, "options": {"statistics_batches": 1}},
        "image-tokenizer": {"model": {**IMAGE, "image_vae": str(workspace / "vae")}},
        "pretrain": {
            "data": {
                "tokens": str(workspace / "tokens"),
                "shape_tokenizer": str(workspace / "shape"),
                "image_tokenizer": str(workspace / "image"),
                "image_vae": str(workspace / "vae"),
            },
            "model": {**BACKBONE, "token_dropout": 0.1},
            "options": {
                "tokenizer": str(workspace / "tokenizer"),
                "tokenizer_2": str(workspace / "tokenizer_2"),
                "text_encoder": {**HEADS, "projection_dim": 16},
                "text_encoder_2": {**HEADS, "num_key_value_heads": 1, "head_dim": 8},
                "image_view": "three_quarter",
                "real_share": 0.5,
                "tasks": {"text-to-3d": 0.4, "text-to-image-to-3d": 0.4, "image-to-3d": 0.2},
                "caption_levels": {"short": 0.5, "medium": 0.5},
            },
        },
    }
    own = parts[stage]
    return {
        "stage": stage,
        "seed": 3,
        "output_dir": str(output),
        "data": {"root": str(workspace / "data"), **own.get("data", {})},
        "model": own["model"],
        "options": own.get("options", {}),
        "training": {
            "max_steps": 10,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 3e-3,
            "logging_steps": 3,
            "save_steps": 4,
            "disable_tqdm": True,
            **training,
        },
    }


def write_recipe(recipe: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))
    return path


# Processes. A fork server has imported everything once: each run is a process of its own, and starts at once.

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["forked_imports"])


def start_server() -> None:
    """Starts the fork server, once. It finds modules by the environment only, whatever `sys.path` says here."""
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1")
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


class Run:
    """`omni123 train` in a process; `events` happen inside of it (`arrange`). `code()` waits for its exit code."""

    def __init__(self, recipe: dict[str, Any], events: dict[str, Any] | None = None, environment=None):
        output = Path(recipe["output_dir"])
        output.parent.mkdir(parents=True, exist_ok=True)
        path = write_recipe(recipe, output.parent / f"{output.name}.yaml")
        self.log = output.parent / f"{output.name}.rank{(environment or {}).get('RANK', '0')}.out"
        arguments = ["train", recipe["stage"], "--config", str(path)]
        start_server()
        self.process = _context.Process(
            target=train_here, args=(arguments, events or {}, environment or {}, str(self.log)), daemon=True
        )
        self.process.start()
        # SIGTERM, with which daemons are ended, asks a run for a checkpoint first.
        atexit.register(self.process.kill)

    def code(self) -> int:
        self.process.join(timeout=120)
        if self.process.exitcode is None:
            # A rank that waits for one that has ended, say. It would outlive the tests.
            self.process.kill()
            raise AssertionError(f"a run hangs: {self.output()[-2000:]}")
        return self.process.exitcode

    def output(self) -> str:
        return self.log.read_text()


def train_here(arguments: list[str], events: dict[str, Any], environment: dict[str, str], log: str) -> None:
    """The command line, in this process, its output in a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if "seed" in events:
        arguments = [*arguments, f"seed={events['seed']}"]
    arrange(events)
    from omni123_hf.cli.main import main

    main(arguments)


def arrange(events: dict[str, Any]) -> None:
    """Lets things happen to this process, each in a given step (from 1).

    `kill_after_backward`, `kill_at_end`, `kill_while_writing` (its checkpoint), `terminate` (SIGTERM after backward),
    `terminate_late` (SIGTERM when the training loop has ended),
    `fill_disk` (no file can grow beyond 100 kB from then on), `spoil` (its loss is NaN); `trace` is a file that gets the
    numbers of all samples drawn, `seed` a seed of this process only, `shard` (replicas, shards) splits weights by FSDP2.
    """
    from transformers import TrainerCallback

    from omni123_hf.training.base_trainer import RunTrainer
    from omni123_hf.training.runner import CounterDataset

    def happen(event: str, step: int) -> None:
        if events.get(event) != step:
            return
        if event == "fill_disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        else:
            os.kill(os.getpid(), signal.SIGTERM if event.startswith("terminate") else signal.SIGKILL)

    class Events(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            happen("kill_after_backward", state.global_step + 1)
            happen("terminate", state.global_step + 1)
            happen("fill_disk", state.global_step + 1)

        def on_step_end(self, args, state, control, **kwargs):
            happen("kill_at_end", state.global_step)

        def on_train_end(self, args, state, control, **kwargs):
            happen("terminate_late", state.global_step)

    begin, save, draw = RunTrainer.__init__, RunTrainer.save_progress, CounterDataset.__getitem__

    def with_events(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        self.add_callback(Events())
        if "spoil" in events:
            compute = self.compute_loss
            self.compute_loss = lambda *args, **kwargs: (
                compute(*args, **kwargs) * (float("nan") if self.state.global_step + 1 == events["spoil"] else 1.0)
            )

    def eventful_save(self, folder):
        happen("kill_while_writing", self.state.global_step)
        save(self, folder)

    def traced(self, k):
        with open(events["trace"], "a") as file:
            file.write(f"{k}\n")
        return draw(self, k)

    RunTrainer.__init__ = with_events  # type: ignore[method-assign]
    RunTrainer.save_progress = eventful_save  # type: ignore[method-assign]
    if "shard" in events:
        shard_on_the_cpu(*events["shard"])
    if "trace" in events:
        CounterDataset.__getitem__ = traced  # type: ignore[method-assign]


def shard_on_the_cpu(replicas: int, shards: int) -> None:
    """Lets accelerate run FSDP2 on gloo ranks, which it refuses: told that they are GPUs, it puts all on "cpu"."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from omni123_hf.training import arguments

    def set_device(self):
        self.device = torch.device("cpu")

    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = set_device
    arguments.check_launch = lambda *args: None  # type: ignore[assignment]
    torch.distributed.init_process_group("gloo")
    os.environ.update(
        ACCELERATE_USE_FSDP="true",
        FSDP_VERSION="2",
        FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
        FSDP_TRANSFORMER_CLS_TO_WRAP="Omni123DualBlock,Omni123SingleBlock",
        FSDP_STATE_DICT_TYPE="SHARDED_STATE_DICT",
        FSDP_RESHARD_AFTER_FORWARD="true",
    )
    if replicas > 1:
        os.environ.update(
            ACCELERATE_USE_PARALLELISM_CONFIG="true",
            PARALLELISM_CONFIG_DP_REPLICATE_SIZE=str(replicas),
            PARALLELISM_CONFIG_DP_SHARD_SIZE=str(shards),
        )


def start_ranks(recipe: dict[str, Any], events: list[dict[str, Any]] | None = None, ranks: int = 2) -> list[Run]:
    """A run on several gloo ranks, as torchrun starts them; `events` of each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    return [
        Run(recipe, (events or [{}] * ranks)[rank], {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]


# Comparing.


def read_log(folder: Path) -> list[dict[str, Any]]:
    """`log.jsonl` without what depends on the clock."""
    timed = ("seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def content(folder: Path) -> dict[str, Any]:
    """Everything below a folder that a resumed run must reproduce to the bit: tensors by value, other files by bytes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            found[name] = load_file(path)
        elif path.suffix in (".pt", ".pth"):
            found[name] = torch.load(path, weights_only=False)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def first_difference(a: Any, b: Any, name: str = "") -> str | None:
    """Where two nested values differ, None when they are equal to the bit."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return None if same else name
    if isinstance(a, np.ndarray):
        return None if np.array_equal(a, b) else name
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{name}: {sorted(map(str, a.keys() ^ b.keys()))}"
        return next((d for key in a if (d := first_difference(a[key], b[key], f"{name}/{key}"))), None)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{name}: {len(a)} and {len(b)} entries"
        pairs = enumerate(zip(a, b, strict=True))
        return next((d for i, (x, y) in pairs if (d := first_difference(x, y, f"{name}/{i}"))), None)
    return None if a == b else f"{name}: {str(a)[:80]} and {str(b)[:80]}"
