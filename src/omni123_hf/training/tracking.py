"""Figures of a running training beside its losses: speed, utilisation, memory, and how much of the vocabularies it sees.

They go into every line of `log.jsonl`, and where `training.report_to` names `tensorboard` or `trackio`, there too:

| figure | meaning, over the steps since the line before |
|---|---|
| `samples_per_second` | samples of all processes; validation, checkpoints and sample pictures do not count as time |
| `target_tokens_per_second` | codes with a loss |
| `tokens_per_second` | positions of the generation stream: prefix, start and view tokens too, padding and text not |
| `mfu` | model operations (`flops.py`) over seconds × devices × peak, where the peak is known (`device_peaks.py`) |
| `peak_memory_gib` | most CUDA memory that tensors took so far in the run, on this process's device |
| `shape_codes_used`, `image_codes_used` | share of the vocabulary that occurred, in prefix or target |
| `shape_code_perplexity`, `image_code_perplexity` | exponential of the entropy of their frequencies |
"""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..errors import Omni123Error
from ..modeling.configuration_omni123 import Omni123Config
from .device_peaks import given_peak
from .flops import TokenCounts, backbone_flops, count_batch, encoder_flops


# They differ from run to run of the same recipe.
SPEED_FIGURES = ("samples_per_second", "target_tokens_per_second", "tokens_per_second", "mfu", "peak_memory_gib")
EXTRAS = {"tensorboard": "tracking", "trackio": "trackio"}


def reporters(report_to: Any) -> list[str]:
    """`training.report_to` as a list, empty for none."""
    if report_to in (None, "none", []):
        return []
    return [report_to] if isinstance(report_to, str) else list(report_to)


def check_reporters(report_to: Any) -> None:
    """Raises `Omni123Error` for a tracker that transformers does not know, or whose package is not installed."""
    for name in reporters(report_to):
        if name not in INTEGRATION_TO_CALLBACK and name not in ("all", "none"):
            raise Omni123Error(f"training.report_to {name!r} does not exist: use tensorboard or trackio.")
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            raise Omni123Error(
                f"training.report_to {name} needs the package {name}; install it with: pip install "
                f"'omni123-hf[{EXTRAS[name]}]'"
            )


def code_figures(counts: torch.Tensor, name: str) -> dict[str, float]:
    """Share of the codes that occur and perplexity of `counts (K,)`; nothing where none occurs."""
    total = counts.sum()
    if not len(counts) or not total:
        return {}
    shares = counts.double() / total
    entropy = -(shares * shares.clamp_min(1e-300).log()).sum()
    return {f"{name}_codes_used": float((counts > 0).double().mean()), f"{name}_code_perplexity": float(entropy.exp())}


class Tracking(TrainerCallback):
    """Counts every micro-batch that `observe` is given, and times steps; `figures` reads both and starts anew.

    Counting stays on the device: nothing is read back between two log lines. `encoders`: configurations of the text encoders,
    each with whether it is trained. `peak_tflops` of one device: an option, else the environment, else the device's name.
    """

    def __init__(
        self, config: Omni123Config, encoders: Sequence[tuple[Any, bool]] = (), peak_tflops: float | None = None
    ):
        self.config, self.encoders = config, list(encoders)
        self.peak = given_peak(peak_tflops, "options.peak_tflops")
        self.counts: torch.Tensor | None = None
        self.codes: torch.Tensor | None = None
        self.seconds = 0.0
        self.mark = time.perf_counter()

    # ---- Time: from mark to the end of a step; whatever happens between steps moves the mark. ----

    def on_train_begin(self, args, state, control, **kwargs):
        self.resume_clock()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.seconds += now - self.mark
        self.mark = now

    def on_evaluate(self, args, state, control, **kwargs):
        self.resume_clock()

    def on_save(self, args, state, control, **kwargs):
        self.resume_clock()

    def resume_clock(self) -> None:
        """What passed since the last step is no training."""
        self.mark = time.perf_counter()

    # ---- Counts ----

    @torch.no_grad()
    def observe(self, inputs: Mapping[str, Any]) -> None:
        """Counts a micro-batch of training as the collator made it."""
        ids = inputs["input_ids"]
        counted = count_batch(dict(inputs), self.config)
        if self.counts is None or self.codes is None:
            self.counts = torch.zeros_like(counted)
            self.codes = torch.zeros(self.config.vocab_size, dtype=torch.long, device=ids.device)
        self.counts += counted
        self.codes.scatter_add_(0, ids.flatten(), torch.ones_like(ids).flatten())

    def figures(self) -> dict[str, float]:
        """The figures since the last call, of all processes; all of them must call. Empty before the first step."""
        if self.counts is None or self.codes is None or not self.seconds:
            return {}
        processes = 1
        if distributed.is_available() and distributed.is_initialized():
            processes = distributed.get_world_size()
            for tensor in (self.counts, self.codes):
                distributed.all_reduce(tensor)
        counts = TokenCounts(*self.counts.tolist())
        codes = self.codes[: self.config.num_codes].cpu()
        seconds, self.seconds = self.seconds, 0.0
        self.counts = self.codes = None
        figures = {
            "samples_per_second": counts.samples / seconds,
            "target_tokens_per_second": counts.targets / seconds,
            "tokens_per_second": counts.generation / seconds,
        }
        if self.peak is not None:
            operations = backbone_flops(self.config, counts)["total"]
            operations += encoder_flops(self.encoders, self.config, counts)
            figures["mfu"] = operations / (seconds * processes * self.peak[0] * 1e12)
        if torch.cuda.is_available():
            figures["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        for name, start, size in (
            ("shape", 0, self.config.num_shape_codes),
            ("image", self.config.image_offset, self.config.num_image_codes),
        ):
            figures |= code_figures(codes[start : start + size], name)
        return figures
