"""Several ranks: each draws its own noise, shortcuts and masks, all keep equal weights, and a resumed run repeats them."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_adversarial_stage import EVERYTHING
from test_image_stages import TOKENIZER_FIELDS, VAE_FIELDS, recipe, store_folder
from two_ranks import on_two_ranks

from omni123_hf.training import base_trainer, image_tokenizer, image_vae, stage_trainer


__all__ = ["store_folder"]


def train_on_a_rank(rank, stage, job):
    """Draws of the rank, and sums of what must be equal on all: model, averages, discriminator."""
    trainers, draws = [], []
    start, begin = stage_trainer.StageTrainer.__init__, base_trainer.RunStart.on_train_begin

    def remember(self, *args, **kwargs):
        start(self, *args, **kwargs)
        trainers.append(self)

    def watch(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        state = torch.get_rng_state()
        draws.append(float(torch.rand(())))
        torch.set_rng_state(state)

    stage_trainer.StageTrainer.__init__ = remember
    base_trainer.RunStart.on_train_begin = watch
    stage(job)
    (trainer,) = trainers
    states = [trainer.model.state_dict()]
    if getattr(trainer, "adversary", None) is not None:
        states.append(trainer.adversary.state_dict())
    # Statistics of the latent are each rank's own until the next forward takes those of rank 0.
    sums = [float(v.double().sum()) for state in states for k, v in sorted(state.items()) if "latent" not in k]
    return draws, sums


@pytest.mark.slow
def test_two_ranks_of_the_vae_draw_their_own_noise_stay_equal_and_resume(store_folder, tmp_path):
    def job(name):
        made = recipe("image-vae", store_folder, tmp_path / name, dict(VAE_FIELDS), 30, **EVERYTHING)
        made.training |= {"save_steps": 15, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
        return made

    (draws, sums), (other_draws, other_sums) = on_two_ranks(
        train_on_a_rank, image_vae.train, job("whole"), start="spawn"
    )
    assert draws != other_draws
    assert sums == other_sums
    shutil.copytree(tmp_path / "whole" / "checkpoint-15", tmp_path / "parts" / "checkpoint-15")
    again = on_two_ranks(train_on_a_rank, image_vae.train, job("parts"), start="spawn")
    assert [result[1] for result in again] == [sums, sums]
    one, two = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.slow
def test_two_ranks_of_the_tokenizer_restart_the_same_codes_and_resume(store_folder, tmp_path):
    image_vae.train(recipe("image-vae", store_folder, tmp_path / "vae", dict(VAE_FIELDS), 20))
    fields = {**TOKENIZER_FIELDS, "image_vae": str(tmp_path / "vae" / "final"), "restart_after": 2, "num_codes": 128}

    def job(name):
        made = recipe("image-tokenizer", store_folder, tmp_path / name, dict(fields), 20, ema_decay=0.9)
        made.training |= {"save_steps": 10, "per_device_train_batch_size": 2}
        return made

    (_, sums), (_, other) = on_two_ranks(train_on_a_rank, image_tokenizer.train, job("whole"), start="spawn")
    assert sums == other
    log = (tmp_path / "whole" / "log.jsonl").read_text()
    assert '"codes_restarted": 0' not in log.splitlines()[1]
    shutil.copytree(tmp_path / "whole" / "checkpoint-10", tmp_path / "parts" / "checkpoint-10")
    again = on_two_ranks(train_on_a_rank, image_tokenizer.train, job("parts"), start="spawn")
    assert [result[1] for result in again] == [sums, sums]
