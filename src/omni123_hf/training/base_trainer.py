"""`Trainer` whose checkpoints are complete or absent, whose log goes on after a resume, and whose ranks stop together."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from ..errors import Omni123Error
from .checkpoints import (
    checkpoint_folder,
    commit_checkpoint,
    is_write_error,
    reason,
    remove_old_checkpoints,
    staging_folder,
)
from .processes import Processes
from .stopping import StepGuard


class RunTrainer(Trainer):
    """What every stage of a recipe trains with (`runner.run`)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Losses here are means over a micro-batch; Trainer would otherwise guess from the model's signature.
        self.model_accepts_loss_kwargs = False
        self.parts: dict[str, list[Any]] = {}
        self.processes = Processes()
        self.guard = StepGuard(
            Path(str(self.args.output_dir)), self.processes, getattr(self.accelerator, "scaler", None) is None
        )
        # Set by `runner.run`: writes the run's description into a checkpoint; bytes of the log that belong to it.
        self.describe: Any = lambda folder: None
        self.log_bytes: Any = lambda: 0
        self.start = RunStart(self)
        self.add_callback(self.start)
        self.add_callback(self.guard)

    # ---- Steps ----

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.guard.add_micro_batch(self.state.global_step, inputs, loss)
        return loss

    def _get_grad_norm(self, *args, **kwargs):
        grad_norm = super()._get_grad_norm(*args, **kwargs)
        self.guard.add_grad_norm(grad_norm)
        return grad_norm

    # ---- Log ----

    def log(self, logs, *args, **kwargs):
        """Adds the means of `parts`, named parts of the loss (floats or tensors) since the last line, over all ranks."""
        own = {name: [float(value) for value in values] for name, values in self.parts.items()}
        merged: dict[str, list[float]] = {}
        for parts in self.processes.gather(own):
            for name, values in parts.items():
                merged.setdefault(name, []).extend(values)
        for name, values in merged.items():
            logs.setdefault(name, float(np.mean(values)))
        self.parts = {}
        if "train_loss" in logs:
            # Of the whole run: Trainer counts the steps since the resume, in some versions divided by all steps.
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, *args, **kwargs)

    # ---- Checkpoints ----

    def _save_checkpoint(self, model, trial):
        output, step = Path(str(self.args.output_dir)), self.state.global_step
        target, staging = checkpoint_folder(output, step), staging_folder(output, step)
        if self.args.should_save:
            staging.mkdir(parents=True, exist_ok=True)
        # No rank writes before the folder is there, none leaves before all have written.
        self.processes.gather(None)
        self.attempt(self.write_checkpoint, staging, target)
        self.attempt(self.finish_checkpoint, staging, target)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(target))

    def attempt(self, action: Any, staging: Path, target: Path) -> None:
        """Runs `action(staging, target)` on this rank; where it cannot write on any, all raise one error."""
        problem = None
        try:
            action(staging, target)
        except Exception as error:
            if not is_write_error(error):
                raise
            problem = reason(error, staging.parent)
        problems = [text for text in self.processes.gather(problem) if text]
        if problems:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
            raise Omni123Error(
                f"cannot write {target} ({problems[0]}): earlier checkpoints are intact; free space on that disk, and the "
                "same command goes on from the newest of them."
            )

    def write_checkpoint(self, staging: Path, target: Path) -> None:
        """Everything that a resumed run needs, into `staging`; what Trainer saves, and its state last."""
        self.store_flos()
        self.save_model(str(staging), _internal_call=True)
        best = self.state.best_global_step
        if best and (best == self.state.global_step or checkpoint_folder(target.parent, best).exists()):
            self.state.best_model_checkpoint = str(checkpoint_folder(target.parent, best))
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staging))
            self._save_scaler(str(staging))
            self._save_rng_state(str(staging))
            self.save_progress(staging)
        if self.args.should_save:
            self.describe(staging)
            states: Any = self.state.stateful_callbacks
            for callback in [*self.callback_handler.callbacks, self.control]:
                if isinstance(callback, ExportableState):
                    name, state = type(callback).__name__, callback.state()
                    if isinstance(states[name], list):
                        states[name].append(state)
                    else:
                        states[name] = state
            self.state.save_to_json(str(staging / TRAINER_STATE_NAME))

    def finish_checkpoint(self, staging: Path, target: Path) -> None:
        """Puts what all ranks wrote in place, then removes older checkpoints."""
        if self.args.should_save:
            commit_checkpoint(staging, target)
            remove_old_checkpoints(target.parent, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint):
        saved = None if checkpoint is None else Path(checkpoint) / OPTIMIZER_NAME
        if saved is None or self.args.device.type != "cpu" or not saved.exists():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # With several processes transformers 5.17 asks torch for the device "cpu:0", which does not exist.
        parts: tuple[tuple[Any, str], ...] = ((self.optimizer, OPTIMIZER_NAME), (self.lr_scheduler, SCHEDULER_NAME))
        for part, name in parts:
            part.load_state_dict(torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True))

    def save_progress(self, folder: Path) -> None:
        """This rank's sums since the last line of the log."""
        progress = {
            "log_bytes": self.log_bytes(),
            "loss": float(self._tr_loss),
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "parts": {name: [float(value) for value in values] for name, values in self.parts.items()},
        }
        progress_file(folder, self.processes.rank).write_text(json.dumps(progress, indent=1) + "\n")

    def load_progress(self, folder: Path) -> None:
        """Restores what `save_progress` wrote. With another number of processes the sums are shared out anew."""
        saved = [json.loads(path.read_text()) for path in sorted(folder.glob("progress_*.json"))]
        if not saved:
            return
        same = len(saved) == self.processes.count
        own = json.loads(progress_file(folder, self.processes.rank).read_text()) if same else saved[0]
        # The logged loss is the mean over ranks of these sums.
        self._tr_loss.fill_(own["loss"] if same else float(np.mean([entry["loss"] for entry in saved])))
        self._total_loss_scalar = own["total_loss"]
        self._globalstep_last_logged = own["last_logged"]
        if same:
            self.parts = own["parts"]
        elif self.processes.rank == 0:
            for entry in saved:
                for name, values in entry["parts"].items():
                    self.parts.setdefault(name, []).extend(values)


def progress_file(folder: Path, rank: int) -> Path:
    return folder / f"progress_{rank}.json"


class RunStart(TrainerCallback):
    """What Trainer leaves undone at the start of a run, above all of a resumed one (`checkpoint`, set by `runner.run`).

    Every rank gets its own random stream: Trainer seeds all alike, so all would drop the same tokens. Rank 0 keeps that
    stream, and a resumed run gets its streams back from Trainer unless the number of processes has changed.
    """

    def __init__(self, trainer: RunTrainer):
        self.trainer = trainer
        self.checkpoint: Path | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        rank, count = self.trainer.processes.rank, self.trainer.processes.count
        known = False
        if self.checkpoint is not None:
            self.trainer.load_progress(self.checkpoint)
            known = (self.checkpoint / ("rng_state.pth" if count == 1 else f"rng_state_{rank}.pth")).exists()
            # Trainer goes on with the intervals of the checkpoint, whatever the arguments say now.
            state.compute_steps(args, state.max_steps)
            follow_schedule(self.trainer.lr_scheduler)
        if not known and (rank or state.global_step):
            sequence = np.random.SeedSequence((args.seed, state.global_step, rank))
            set_seed(int(sequence.generate_state(1)[0]))


def follow_schedule(scheduler: Any) -> None:
    """Sets the learning rate of the coming step by the schedule's own function.

    The optimiser brings the rate along that the old schedule had for it; where the schedule is the same, so is the rate.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        return
    pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * factor(scheduler.last_epoch) for base, factor in pairs]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
