"""Numbers that are not finite: the run stops at that step, keeps its batch, and every earlier checkpoint."""

import json
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import make_workspace, stage_recipe
from transformers import TrainerControl

from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error
from omni123_hf.training import shape_tokenizer
from omni123_hf.training.checkpoints import problem_of
from omni123_hf.training.failed_batch import FailedBatch, load_failed_batch, save_failed_batch
from omni123_hf.training.processes import Processes
from omni123_hf.training.recipe import Recipe
from omni123_hf.training.runner import CounterDataset
from omni123_hf.training.stopping import StepGuard, StepRecord, StopRequest


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


def recipe(workspace, output, **training):
    raw = stage_recipe("shape-tokenizer", workspace, output, save_steps=1, **training)
    raw["options"] |= {"self_distillation": False, "vq_warmup_steps": 0}
    return Recipe(**{**raw, "output_dir": output})


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_diverged_run_stops_with_its_batch_and_its_checkpoint(workspace, tmp_path, clip):
    # The first step throws the weights out of float32's range; the second cannot be finite.
    diverging = recipe(workspace, tmp_path / "run", learning_rate=1e38, max_grad_norm=clip)
    with pytest.raises(Omni123Error) as caught:
        shape_tokenizer.train(diverging)
    message = str(caught.value)
    path = tmp_path / "run" / "failed_batch_rank0.safetensors"
    assert "step 2 is not finite" in message and str(path) in message and "\n" not in message
    assert problem_of(tmp_path / "run" / "checkpoint-1") is None
    assert not (tmp_path / "run" / "checkpoint-2").exists()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert not log

    failed = load_failed_batch(path)
    assert (failed.step, failed.rank) == (2, 0)
    assert not all(torch.isfinite(torch.tensor([*failed.losses, failed.grad_norm])))
    assert failed.samples == [[8, 11], [12, 15]]
    store = AssetStore.open(workspace / "data")
    weights = shape_tokenizer.source_weights(store, store.indices("train"), 0.5)

    def draw(rng, k):
        index = int(rng.choice(store.indices("train"), p=weights))
        return shape_tokenizer.draw_shape(store, index, rng, 32, 64, 0.5)

    samples = CounterDataset(draw, 16, 3)
    for number, (first, last) in enumerate(failed.samples):
        expected = shape_tokenizer.stack([samples[k] for k in range(first, last + 1)])
        found = failed.micro_batches[number]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_batch_comes_back_as_it_was(tmp_path):
    ids = torch.arange(6).view(2, 3)
    inputs = {"ids": ids, "same": ids, "task": "text-to-3d", "prefix": 3, "none": None, "nested": {"mask": ids > 2}}
    failed = FailedBatch(5, 1, [float("nan")], float("inf"), [[0, 1]], [{**inputs, "odd": object()}, inputs])
    save_failed_batch(tmp_path / "failed_batch_rank1.safetensors", failed)
    again = load_failed_batch(tmp_path / "failed_batch_rank1.safetensors")
    assert list(again.omitted) == ["0/odd"]
    assert again.losses[0] != again.losses[0] and again.grad_norm == float("inf")
    for batch in again.micro_batches:
        assert torch.equal(batch["ids"], ids) and torch.equal(batch["nested"]["mask"], ids > 2)
        assert (batch["task"], batch["prefix"], batch["none"]) == ("text-to-3d", 3, None)
    with pytest.raises(Omni123Error, match="no failed batch"):
        load_failed_batch(tmp_path / "nothing.safetensors")


def test_a_step_tells_losses_of_micro_batches_and_the_norm():
    record = StepRecord(0, losses=[torch.tensor(1.0), torch.tensor(2.0)])
    record.send(torch.tensor(3.0))
    assert record.numbers() == [1.0, 2.0, 3.0]
    record.send(0.5)
    assert record.numbers()[-1] == 0.5


@pytest.mark.parametrize(("due", "raised_at"), [((), 4), (("should_save",), 3), (("should_log",), 3)])
def test_on_cuda_a_step_is_looked_at_one_step_later_but_never_saved_unseen(tmp_path, due, raised_at):
    """The order of things only: the numbers lie on the CPU here, so nothing is awaited."""
    args = SimpleNamespace(
        device=torch.device("cuda"),
        world_size=1,
        process_index=0,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
    )
    guard = StepGuard(tmp_path, Processes(), norm_counts=True)

    def step(number, loss, control):
        guard.add_micro_batch(number - 1, {"ids": torch.tensor([number])}, torch.tensor(loss))
        guard.add_grad_norm(1.0)
        guard.on_step_end(args, None, control)

    for number in range(1, raised_at + 1):
        control = TrainerControl()
        for name in due if number == 3 else ():
            setattr(control, name, True)
        if number < raised_at:
            step(number, float("inf") if number == 3 else 1.0, control)
            continue
        with pytest.raises(Omni123Error, match="step 3 is not finite: loss inf"):
            step(number, float("inf") if number == 3 else 1.0, control)
    failed = load_failed_batch(tmp_path / "failed_batch_rank0.safetensors")
    assert failed.samples == [[2, 2]] and failed.micro_batches[0]["ids"].item() == 3


def test_a_loss_scaler_may_meet_infinite_gradients(tmp_path):
    guard = StepGuard(tmp_path, Processes(), norm_counts=False)
    guard.add_micro_batch(0, {}, torch.tensor(1.0))
    guard.add_grad_norm(float("inf"))
    guard.on_step_end(SimpleNamespace(device=torch.device("cpu")), None, TrainerControl())


def test_sigterm_is_listened_to_only_while_training():
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    with request.listening():
        signal.raise_signal(signal.SIGTERM)
        assert request.received
    assert signal.getsignal(signal.SIGTERM) is before

    def elsewhere():
        with StopRequest().listening():
            assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
