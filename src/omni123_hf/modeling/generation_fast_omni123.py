"""A generation plan through the fast decoder: what `generate_plan` does, with each prompt read once and lean steps after it."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .decoder_omni123 import FastDecoder, Session
from .decoder_weights_omni123 import WeightStamp
from .generation_omni123 import GenerationProgress, ProgressCallback, add_bonus, guidance_weight, sample_codes
from .tasks import Step


# Beside the models, not in them: a copied, pickled or saved model carries no decoder, and a decoder goes with its model.
_decoders: weakref.WeakKeyDictionary[Any, FastDecoder] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Drawing:
    """How codes are drawn from logits, as `generate_plan` takes it."""

    guidance_scale: float
    guidance_schedule: str
    temperature: float
    top_k: int | None
    top_p: float | None
    generator: torch.Generator | None
    callback: ProgressCallback | None

    def draw(self, logits: torch.Tensor, step: Step, index: int, samples: int = 1) -> torch.Tensor:
        """The code `(B, 1)` number `index` of a step from logits `(B, K)`, or of [conditional ; unconditional] rows.

        samples: rows for each prompt."""
        if self.guidance_scale != 1.0:
            conditional, unconditional = logits.chunk(2)
            weight = guidance_weight(self.guidance_scale, self.guidance_schedule, index, step.count)
            logits = (conditional - unconditional).mul_(weight).add_(unconditional)
        logits = add_bonus(logits, step, index, samples)
        return sample_codes(logits, self.temperature, self.top_k, self.top_p, self.generator)


def decoder_of(model: Any, weights: str = "model", compile_step: bool = False) -> FastDecoder:
    """The model's decoder, made anew when its weights are no longer those it was made of."""
    decoder = _decoders.get(model)
    if decoder is None or not decoder.fits(WeightStamp(model), weights, compile_step):
        # The old one goes before the new one comes: both would be the size of the generation stream.
        _decoders.pop(model, None)
        del decoder
        decoder = _decoders[model] = FastDecoder(model, weights, compile_step=compile_step)
    return decoder


def release_decoder(model: Any) -> None:
    """Frees the memory of the model's decoder, which is about that of its generation stream."""
    _decoders.pop(model, None)


def generate_fast(
    model: Any,
    plan: Sequence[Step],
    conditions: dict[str, torch.Tensor | None],
    empty: dict[str, torch.Tensor | None] | None,
    prompts: int,
    samples: int,
    prefix: int,
    drops_prefix: bool,
    weights: str,
    drawing: Drawing,
) -> dict[str, torch.Tensor]:
    """The plan's codes `(P samples, n)` by segment. `conditions` and the plan's ids have a row for each of P prompts, or one for
    all; `empty` holds the empty prompt's embeddings where the model needs them, and is None without guidance."""
    decoder = decoder_of(model, weights)
    lead, first = _lead(plan, prompts, model.device)
    session, logits = _open(
        model,
        decoder,
        plan,
        lead,
        str(plan[first].modality),
        conditions,
        empty,
        prompts,
        samples,
        prefix,
        drops_prefix,
    )
    rows = prompts * samples
    results: dict[str, torch.Tensor] = {}
    forced: list[torch.Tensor] = []
    last: tuple[torch.Tensor, str] | None = None
    done, total = 0, sum(step.count for step in plan if step.action == "sample")
    for step in plan[first:]:
        if step.action != "sample":
            assert step.ids is not None  # Checked by the caller.
            ids = step.ids.to(model.device)
            forced.append(ids.expand(rows, -1) if ids.shape[0] == 1 else ids.repeat_interleave(samples, dim=0))
            continue
        modality, codes = str(step.modality), []
        for index in range(step.count):
            if forced:
                logits = decoder.append(session, _pending(model, last, forced), modality)
                forced = []
            elif last is not None:
                logits = decoder.step(session, last[0], last[1], modality)
            code = drawing.draw(logits, step, index, samples)
            codes.append(code)
            last = (code[:, 0], modality)
            done += 1
            if drawing.callback is not None:
                drawing.callback(GenerationProgress(done, total, modality, step.name, codes))
        results[step.name] = torch.cat(codes, dim=1)
    return results


def _lead(plan: Sequence[Step], prompts: int, device: torch.device) -> tuple[torch.Tensor, int]:
    """Ids `(1 or P, T)` of everything before the first sampled segment, and where that stands in the plan."""
    first = next(number for number, step in enumerate(plan) if step.action == "sample")
    ids = [step.ids.to(device) for step in plan[:first] if step.ids is not None]
    rows = max(part.shape[0] for part in ids)
    return torch.cat([part.expand(rows, -1) for part in ids], dim=1), first


def _pending(model: Any, last: tuple[torch.Tensor, str] | None, forced: list[torch.Tensor]) -> torch.Tensor:
    """Embeddings `(B, T, hidden)` of the last code, if it is not fed yet, and of the forced ids that follow it."""
    if last is not None:
        code, modality = last
        forced = [code[:, None] + (0 if modality == "shape" else model.config.image_offset), *forced]
    return model.embed_ids(torch.cat(forced, dim=1))


def _open(
    model: Any,
    decoder: FastDecoder,
    plan: Sequence[Step],
    lead: torch.Tensor,
    modality: str,
    conditions: dict[str, torch.Tensor | None],
    empty: dict[str, torch.Tensor | None] | None,
    prompts: int,
    samples: int,
    prefix: int,
    drops_prefix: bool,
) -> tuple[Session, torch.Tensor]:
    """Reads the prompts; returns a session behind them, and logits `(R, K)` of the first code."""
    every = {"prefix_length": prefix} if prefix else {}
    given = {name: value.to(model.device) for name, value in conditions.items() if value is not None}
    read = [decoder.read_prompt(model, lead.expand(prompts, -1), modality, given, **every)]
    if empty is not None:
        # Also checks that what the model needs for its unconditional rows is there and fits.
        doubled = model._double_conditions(conditions, prompts, empty)
        is_learned = model.config.null_condition == "learned"
        negatives = [] if is_learned else [value for value in empty.values() if value is not None]
        behind = lead[:, prefix:] if drops_prefix else lead
        # The unconditional rows are one where nothing differs between them.
        is_one = len(behind) == 1 and all(len(value) == 1 for value in negatives)
        count = 1 if is_one else prompts
        ids = lead[:1] if is_one else lead.expand(prompts, -1)
        nothing: dict[str, Any] = {}
        if not is_learned:
            nothing = {
                name: value[prompts : prompts + count].to(model.device)
                for name, value in doubled.items()
                if value is not None
            }
        hides = {"drop_prefix": torch.ones(count, dtype=torch.bool, device=model.device)} if drops_prefix else {}
        key = None
        if is_one and (drops_prefix or not prefix):
            key = (modality, prefix, behind.clone(), tuple(value.clone() for value in negatives))
        read.append(
            decoder.read_null_prompt(key, lambda: decoder.read_prompt(model, ids, modality, nothing, **every, **hides))
        )
    # The last code is never fed back.
    total = sum(step.count if step.ids is None else step.ids.shape[1] for step in plan) - 1
    groups = prompts * len(read)
    session = decoder.open(read, groups, samples, lead.shape[1], prefix if drops_prefix else 0, total - lead.shape[1])
    logits = torch.cat([prompt.logits.expand(prompts, -1) for prompt in read])
    return session, logits.repeat_interleave(samples, dim=0)
