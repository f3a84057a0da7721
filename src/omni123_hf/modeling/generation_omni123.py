"""The decode loop: walks a generation plan, with batched classifier-free guidance and a key-value cache.

A plan (`tasks.generation_plan`) mixes given, forced and sampled tokens of two modalities, which no logits processor
can express; hence a loop of our own. Guidance follows `unconditional + w (conditional - unconditional)`, w = 5 (paper §5);
"linear_decay" is Cube 3D's schedule, `1 + (w - 1)(N - i) / N` for code i of N in a segment.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..errors import Omni123Error
from .tasks import Step


if TYPE_CHECKING:
    from .modeling_omni123 import Omni123ForConditionalGeneration

logger = logging.getLogger(__name__)

DEFAULT_GUIDANCE_SCALE = 5.0
GUIDANCE_SCHEDULES = ("constant", "linear_decay")
GUIDANCE_DROPS = ("text", "text_and_prefix")
CACHES = ("dynamic", "static")
ENGINES = ("plain", "fast", "auto")
# Each batch size, prompt length, plan length and modality is a graph of its own; torch's default of 8 would end a session.
COMPILED_GRAPHS = 64


@dataclass(frozen=True)
class GenerationProgress:
    """What a callback learns after each code: `done` of `total` sampled codes, and the segment that is being written.

    `codes`: that segment's local codes so far, a list of (B, 1) tensors that still grows; read it without keeping it.
    """

    done: int
    total: int
    modality: str
    segment: str
    codes: Sequence[torch.Tensor]


ProgressCallback = Callable[[GenerationProgress], Any]


def guidance_weight(scale: float, schedule: str, index: int, count: int) -> float:
    """The weight w for code `index` of `count` in its segment."""
    return scale if schedule == "constant" else 1.0 + (scale - 1.0) * (count - index) / count


def filter_logits(logits: torch.Tensor, top_k: int | None = None, top_p: float | None = None) -> torch.Tensor:
    """Sets logits `(B, K)` outside the kept set to -inf.

    `top_k` keeps the k largest. `top_p` keeps the smallest set of largest codes whose mass reaches p, the code that
    crosses p included.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        weakest = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, -torch.inf)
    if top_p is not None and top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(dim=-1)
        # Mass before a code, not including it: the crossing code starts below p and so stays.
        removed = mass.cumsum(dim=-1) - mass >= top_p
        removed[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(removed).scatter(1, order, removed), -torch.inf)
    return logits


def sample_codes(
    logits: torch.Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draws one local code `(B, 1)` from logits `(B, K)`; temperature 0 takes the largest."""
    if temperature == 0.0:
        return logits.argmax(dim=-1, keepdim=True)
    probabilities = filter_logits(logits.float() / temperature, top_k, top_p).softmax(dim=-1)
    # A CPU generator gives the same codes on every device.
    device = probabilities.device if generator is None else generator.device
    return torch.multinomial(probabilities.to(device), 1, generator=generator).to(logits.device)


def add_bonus(logits: torch.Tensor, step: Step, index: int, samples: int = 1) -> torch.Tensor:
    """Logits `(B, K)` of code `index` of a step, with the step's bonus on the codes that it favours.

    samples: rows for each row of `step.favoured`, unless that has one row for all.
    """
    if step.favoured is None or step.bonus == 0.0:
        return logits
    codes = step.favoured[:, index : index + 1].to(logits.device)
    codes = codes.expand(len(logits), -1) if len(codes) == 1 else codes.repeat_interleave(samples, dim=0)
    return logits.scatter_add(1, codes, torch.full_like(codes, step.bonus, dtype=logits.dtype))


def _check_settings(
    guidance_scale: float,
    guidance_schedule: str,
    guidance_drops: str,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    if not guidance_scale >= 0.0 or guidance_scale == float("inf"):
        raise Omni123Error(f"guidance_scale is {guidance_scale}: it must be 0 or more; 1 means no guidance.")
    if guidance_schedule not in GUIDANCE_SCHEDULES:
        raise Omni123Error(f"guidance_schedule is {guidance_schedule!r}: use one of {', '.join(GUIDANCE_SCHEDULES)}.")
    if guidance_drops not in GUIDANCE_DROPS:
        raise Omni123Error(f"guidance_drops is {guidance_drops!r}: use one of {', '.join(GUIDANCE_DROPS)}.")
    if not temperature >= 0.0 or temperature == float("inf"):
        raise Omni123Error(f"temperature is {temperature}: it must be 0 (greedy) or more.")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise Omni123Error(f"top_k is {top_k}: it must be a whole number of at least 1, or None to keep every code.")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise Omni123Error(f"top_p is {top_p}: it must lie in (0, 1], or be None to keep every code.")


class Omni123GenerationMixin:
    """Adds `generate_plan` to the model."""

    @torch.no_grad()
    def generate_plan(  # type: ignore[misc]
        self: "Omni123ForConditionalGeneration",
        plan: Sequence[Step],
        text_embeds: torch.Tensor | None = None,
        text_embeds_2: torch.Tensor | None = None,
        text_attention_mask_2: torch.Tensor | None = None,
        *,
        batch_size: int | None = None,
        num_samples: int = 1,
        null_text: torch.Tensor | None = None,
        bbox: torch.Tensor | None = None,
        negative_text_embeds: torch.Tensor | None = None,
        negative_text_embeds_2: torch.Tensor | None = None,
        negative_text_attention_mask_2: torch.Tensor | None = None,
        guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
        guidance_schedule: Literal["constant", "linear_decay"] = "constant",
        guidance_drops: Literal["text", "text_and_prefix"] = "text",
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        callback: ProgressCallback | None = None,
        use_cache: bool = True,
        cache_implementation: Literal["dynamic", "static"] = "dynamic",
        compile_decode: bool = False,
        engine: Literal["plain", "fast", "auto"] = "plain",
        decode_weights: Literal["model", "int8", "int8_dynamic"] = "model",
    ) -> dict[str, torch.Tensor]:
        """Runs a plan and returns the local codes `(B * num_samples, n)` of every sampled segment, by segment name.

        Text as in `forward`, for B prompts; none at all means prefix only. `batch_size` B is needed only without text. Each
        prompt gets `num_samples` rows, which follow one another. Guidance doubles the batch into [conditional ;
        unconditional] rows unless `guidance_scale` is 1; its unconditional rows drop the text, and the prefix too when `guidance_drops` is "text_and_prefix". `negative_text_embeds` (B or 1, Lc, Dc),
        and where there is a second text encoder `negative_text_embeds_2` with its mask, are the embeddings of the empty
        prompt that a model with `null_condition` "empty_prompt" needs for them. `callback(GenerationProgress)`
        follows each code. `cache_implementation` "static" keeps keys and values in buffers of the final size, and
        `compile_decode` then runs each one-token step as one compiled graph (`torch.compile`, full graph).
        `use_cache=False` recomputes everything in each step, to check against. These three belong to the plain engine.
        `engine` "fast" decodes over fused weights (`decoder_omni123.py`) with the same codes, up to rounding, and the same
        draws of `generator`; "auto" does where the model allows it and says in the log where it does not.
        `decode_weights` "int8" lets the fast engine hold them in 8 bits, and "int8_dynamic" (CPU) multiply in 8 bits too, which
        changes results a little. Raises `Omni123Error`
        for bad settings and plans.
        """
        _check_settings(guidance_scale, guidance_schedule, guidance_drops, temperature, top_k, top_p)
        if cache_implementation not in CACHES:
            raise Omni123Error(f"cache_implementation is {cache_implementation!r}: use one of {', '.join(CACHES)}.")
        if compile_decode and not (use_cache and cache_implementation == "static"):
            raise Omni123Error(
                "compile_decode needs cache_implementation='static': other caches change shape every step."
            )
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise Omni123Error(f"num_samples is {num_samples!r}: it must be a whole number of at least 1.")
        is_plain_call = not use_cache or cache_implementation != "dynamic" or compile_decode
        is_fast = self._chooses_fast(engine, decode_weights, is_plain_call)
        rows = _plan_rows(plan, text_embeds, batch_size)
        prefix = _prefix_length(plan)
        drops_prefix = guidance_drops == "text_and_prefix" and prefix > 0
        if guidance_scale != 1.0 and text_embeds is None and not drops_prefix:
            raise Omni123Error(
                "There is no text for guidance to drop: pass text, guidance_scale=1.0, or for a task with a prefix "
                "guidance_drops='text_and_prefix'."
            )
        guided = guidance_scale != 1.0
        device = self.device
        for step in plan:
            if step.action != "sample":
                _checked_ids(step, self.config.vocab_size)
            elif step.modality == "image" and self.image_head is None:
                raise Omni123Error(f"The plan samples images ({step.name!r}), but this model has shape codes only.")
            else:
                _check_favoured(step, getattr(self.config, f"num_{step.modality}_codes"))

        conditions: dict[str, Any] = {
            "text_embeds": text_embeds,
            "text_embeds_2": text_embeds_2,
            "text_attention_mask_2": text_attention_mask_2,
            "null_text": null_text,
            "bbox": bbox,
        }
        _check_conditions(conditions, rows, "")
        if num_samples > 1 and not is_fast:
            plan = [
                replace(step, ids=_repeated(step.ids, num_samples), favoured=_repeated(step.favoured, num_samples))
                for step in plan
            ]
            conditions = {
                name: None if value is None else value.repeat_interleave(num_samples, dim=0)
                for name, value in conditions.items()
            }
        visibility: dict[str, Any] = {}
        if guided:
            empty = {
                "text_embeds": negative_text_embeds,
                "text_embeds_2": negative_text_embeds_2,
                "text_attention_mask_2": negative_text_attention_mask_2,
            }
            _check_conditions(empty, rows, "negative_")
            if num_samples > 1 and not is_fast:
                empty = {name: _repeated(value, num_samples) for name, value in empty.items()}
        if is_fast:
            from .generation_fast_omni123 import Drawing, generate_fast

            drawing = Drawing(guidance_scale, guidance_schedule, temperature, top_k, top_p, generator, callback)
            return generate_fast(
                self,
                plan,
                conditions,
                empty if guided else None,
                rows,
                num_samples,
                prefix,
                drops_prefix,
                decode_weights,
                drawing,
            )
        rows *= num_samples
        if guided:
            conditions = self._double_conditions(conditions, rows, empty)
            if drops_prefix:
                visibility["drop_prefix"] = torch.arange(2 * rows, device=device) >= rows
        conditions = {key: value.to(device) for key, value in conditions.items() if value is not None}
        first_only: dict[str, Any] = {}
        if prefix:
            # Behind the prefix, its length matters only to rows that must not see it.
            (visibility if drops_prefix else first_only)["prefix_length"] = prefix

        if use_cache and cache_implementation == "static":
            # The last code is never fed back, hence one position less than the plan has.
            positions = sum(step.count if step.ids is None else step.ids.shape[-1] for step in plan) - 1
            first_only["past_key_values"] = self.make_static_cache(self._conditioning_length(conditions), positions)

        history = torch.empty(rows, 0, dtype=torch.long, device=device)
        pending = 0  # How many last positions of `history` the model has not seen yet.
        carried: dict[str, Any] = {}
        results: dict[str, torch.Tensor] = {}
        done, total = 0, sum(step.count for step in plan if step.action == "sample")
        for step in plan:
            if step.action != "sample":
                assert step.ids is not None  # Checked above.
                ids = step.ids.to(device).expand(rows, -1)
                history, pending = torch.cat([history, ids], dim=1), pending + ids.shape[1]
                continue
            offset = 0 if step.modality == "shape" else self.config.image_offset
            codes = []
            for index in range(step.count):
                fresh = history[:, -pending:] if use_cache else history
                context = carried if carried else {**conditions, **first_only, "use_cache": use_cache}
                forward = _compiled_forward(self) if compile_decode and carried and pending == 1 else self
                output = forward(
                    # A copy, because a slice's stride grows with the history and would make every step a new graph.
                    input_ids=fresh.repeat(2, 1) if guided else fresh.clone(memory_format=torch.contiguous_format),
                    modality=step.modality,
                    logits_to_keep=1,
                    **visibility,
                    **context,
                )
                if use_cache:
                    carried = {
                        "past_key_values": output.past_key_values,
                        "conditioning_mask": output.conditioning_mask,
                    }
                logits = (output.shape_logits if step.modality == "shape" else output.image_logits)[:, -1].float()
                if guided:
                    conditional, unconditional = logits.chunk(2)
                    weight = guidance_weight(guidance_scale, guidance_schedule, index, step.count)
                    logits = unconditional + weight * (conditional - unconditional)
                code = sample_codes(add_bonus(logits, step, index), temperature, top_k, top_p, generator)
                codes.append(code)
                history, pending = torch.cat([history, code + offset], dim=1), 1
                done += 1
                if callback is not None:
                    callback(GenerationProgress(done, total, str(step.modality), step.name, codes))
            results[step.name] = torch.cat(codes, dim=1)
        return results

    def _chooses_fast(self: "Omni123ForConditionalGeneration", engine: str, weights: str, is_plain_call: bool) -> bool:  # type: ignore[misc]
        """Whether the fast engine runs this call; says why where "auto" finds that it cannot."""
        from .decoder_weights_omni123 import DECODE_WEIGHTS, why_not_fast

        if engine not in ENGINES:
            raise Omni123Error(f"engine is {engine!r}: use one of {', '.join(ENGINES)}.")
        if weights not in DECODE_WEIGHTS:
            raise Omni123Error(f"decode_weights is {weights!r}: use one of {', '.join(DECODE_WEIGHTS)}.")
        reason: str | None = None
        if engine != "plain":
            reason = "use_cache, cache_implementation and compile_decode belong to the plain engine"
            reason = reason if is_plain_call else why_not_fast(self)
        if engine == "fast" and reason is not None:
            raise Omni123Error(f"engine 'fast' cannot run this model or call: {reason}. Use engine='auto' or 'plain'.")
        is_fast = engine != "plain" and reason is None
        if weights != "model" and not is_fast:
            raise Omni123Error(
                f"decode_weights {weights!r} needs the fast engine"
                + (f", which cannot run here: {reason}." if reason else ": pass engine='fast'.")
            )
        if reason is not None:
            _tell_once(reason)
        return is_fast

    def _conditioning_length(self: "Omni123ForConditionalGeneration", conditions: dict[str, Any]) -> int:  # type: ignore[misc]
        """Positions C of the conditioning stream that `embed_conditioning` will make."""
        if "text_embeds" not in conditions:
            return 1
        texts = [conditions[name].shape[1] for name in ("text_embeds", "text_embeds_2") if name in conditions]
        return sum(texts) + (self.bbox_proj is not None)

    def _double_conditions(  # type: ignore[misc]
        self: "Omni123ForConditionalGeneration",
        conditions: dict[str, Any],
        rows: int,
        empty: dict[str, torch.Tensor | None],
    ) -> dict[str, Any]:
        """[conditional ; unconditional] rows of every condition; `empty` holds the empty prompt's embeddings."""
        doubled = {key: None if value is None else torch.cat([value, value]) for key, value in conditions.items()}
        text = conditions["text_embeds"]
        if self.config.null_condition == "learned":
            if any(value is not None for value in empty.values()):
                raise Omni123Error("This model has a learned null embedding: leave negative_text_embeds out.")
            if text is not None:
                null = torch.ones(rows, dtype=torch.bool, device=text.device)
                own = conditions["null_text"]
                doubled["null_text"] = torch.cat([~null if own is None else own.to(text.device), null])
            return doubled
        if text is None:
            raise Omni123Error(
                "This model has null_condition 'empty_prompt': pass the empty prompt's embeddings as text_embeds for rows "
                "without text."
            )
        for name in ("text_embeds", "text_embeds_2"):
            wanted, given = conditions[name], empty[name]
            if wanted is None:
                continue
            if given is None:
                raise Omni123Error(f"Guidance with null_condition 'empty_prompt' needs negative_{name}.")
            if given.shape[1:] != wanted.shape[1:]:
                raise Omni123Error(
                    f"negative_{name} is {tuple(given.shape)}: it must match {name} {tuple(wanted.shape)} in length and "
                    "width."
                )
            doubled[name] = torch.cat([wanted, given.to(wanted).expand(rows, -1, -1)])
        mask, empty_mask = conditions["text_attention_mask_2"], empty["text_attention_mask_2"]
        if mask is not None or empty_mask is not None:
            whole = torch.ones(rows, conditions["text_embeds_2"].shape[1], dtype=torch.bool, device=text.device)
            doubled["text_attention_mask_2"] = torch.cat(
                [(whole if part is None else part.to(whole)).expand(rows, -1) for part in (mask, empty_mask)]
            )
        if conditions["bbox"] is not None:
            # Zeros mean "no box": the unconditional rows drop it with the text.
            doubled["bbox"] = torch.cat([conditions["bbox"], torch.zeros_like(conditions["bbox"])])
        return doubled


@functools.cache
def _tell_once(reason: str) -> None:
    logger.warning("decoding with the plain engine, which is slower: %s", reason)


def _repeated(value: torch.Tensor | None, times: int) -> torch.Tensor | None:
    """Rows of prompts as rows of samples; one row for all stays one."""
    return value if value is None or value.shape[0] == 1 else value.repeat_interleave(times, dim=0)


@functools.cache
def _compile_class(model_class: type) -> Callable[..., Any]:
    # Of the class, not of a model: a compiled method would be copied and pickled with its model, and stay bound to it.
    return torch.compile(model_class.forward, fullgraph=True, dynamic=False)  # type: ignore[attr-defined]


def _compiled_forward(model: Any) -> Callable[..., Any]:
    compiled = functools.partial(_compile_class(type(model)), model)  # type: ignore[arg-type]

    def call(**arguments: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=COMPILED_GRAPHS):
            return compiled(**arguments)

    return call


def _check_conditions(conditions: dict[str, Any], rows: int, prefix: str) -> None:
    """Before rows are doubled and NaN becomes a row of zeros: one row, or one for each prompt, and finite."""
    for name, value in conditions.items():
        if value is None:
            continue
        allowed = (1, rows) if prefix else (rows,)
        if not value.ndim or value.shape[0] not in allowed or (name == "bbox" and tuple(value.shape) != (rows, 3)):
            wanted = "(rows, 3)" if name == "bbox" else "a first axis of rows"
            raise Omni123Error(f"{prefix}{name} is {tuple(value.shape)}: it must have {wanted}, rows = {rows}.")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise Omni123Error(f"{prefix}{name} holds NaN or infinity: check the text encoder's precision.")


def _prefix_length(plan: Sequence[Step]) -> int:
    behind = False
    length = 0
    for step in plan:
        if step.action not in ("prefill", "force", "sample"):
            raise Omni123Error(f"A plan has no step {step.action!r}: use 'prefill', 'force' or 'sample'.")
        if step.action != "prefill":
            behind = True
            continue
        if behind:
            raise Omni123Error("A plan's prefill steps must all come first: the prefix is one leading block.")
        length += 0 if step.ids is None else step.ids.shape[-1]
    return length


def _plan_rows(plan: Sequence[Step], text_embeds: torch.Tensor | None, batch_size: int | None) -> int:
    if not any(step.action == "sample" for step in plan):
        raise Omni123Error("The plan samples nothing: leave at least one target out of what is given.")
    if plan[0].action == "sample":
        raise Omni123Error("A plan must begin with a given or forced token: the first code needs a start token.")
    parts = [part for step in plan for part in (step.ids, step.favoured) if part is not None]
    sizes = {part.shape[0] for part in parts if part.shape[0] > 1}
    sizes |= set() if text_embeds is None else {text_embeds.shape[0]}
    sizes |= set() if batch_size is None else {batch_size}
    if len(sizes) > 1:
        raise Omni123Error(f"Text, plan and batch_size name different batch sizes {sorted(sizes)}: make them equal.")
    return sizes.pop() if sizes else 1


def _check_favoured(step: Step, num_codes: int) -> None:
    codes = step.favoured
    if codes is None:
        return
    if codes.ndim != 2 or codes.shape[1] != step.count or int(codes.min()) < 0 or int(codes.max()) >= num_codes:
        raise Omni123Error(
            f"The codes that the step {step.name!r} favours are {tuple(codes.shape)}: they must be (1 or batch, {step.count}) "
            f"and lie in 0..{num_codes - 1}."
        )
    if not math.isfinite(step.bonus):
        raise Omni123Error(f"The bonus of the step {step.name!r} is {step.bonus}: it must be a finite number.")


def _checked_ids(step: Step, vocab_size: int) -> torch.Tensor:
    if step.ids is None or step.ids.ndim != 2:
        raise Omni123Error(f"A {step.action!r} step needs flat ids of shape (1 or batch, k).")
    if step.ids.numel() and (int(step.ids.min()) < 0 or int(step.ids.max()) >= vocab_size):
        raise Omni123Error(
            f"Ids of the {step.action!r} step {step.name!r} leave the vocabulary of {vocab_size} ids: build the plan "
            "with this model's config."
        )
    return step.ids
