"""Runs the steps over items, one folder and one JSON state an item: a stopped run goes on, a bad item never stops it.

`<folder>/items/<id>/state.json` says what was done with which settings and what came of it; `<folder>/rejected.jsonl`
collects the reasons. One process works on a folder; give each process of a cluster its own prompts and folder.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omni123_hf.data.captioning.backends import BackendError
from omni123_hf.data.captioning.cache import write_json_atomic
from omni123_hf.data.captioning.grounding import NO_CATEGORY
from omni123_hf.data.synthesis.assets import SynthesizedAsset
from omni123_hf.data.synthesis.curation import RejectedPrompt
from omni123_hf.data.synthesis.prompts import Prompt
from omni123_hf.data.synthesis.steps import Item, Step, read_captions
from omni123_hf.errors import Omni123Error, RejectedError


CURATION = "curation"


@dataclass
class ItemState:
    """What is known of an item.

    done: step name to {"identity", "facts"}, in order. rejected: {"step", "identity", "reason", "detail"}, or None.
    """

    prompt: dict[str, Any]
    seed: int
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[str, Any] | None = None


@dataclass(frozen=True)
class StepOutcome:
    """Of one step: items that passed it, and how many failed it for each reason."""

    name: str
    passed: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class SynthesisReport:
    """What a run left: items that passed every step, how many failed for each reason, and the same step by step, the
    curation of prompts first."""

    finished: int
    rejected: dict[str, int]
    steps: list[StepOutcome]


class SynthesisPipeline:
    """The steps over a folder. seed: of the generators, together with each item's prompt."""

    def __init__(self, folder: str | Path, steps: Sequence[Step], seed: int = 0):
        names = [step.name for step in steps]
        if not names or len(set(names)) != len(names):
            raise Omni123Error(f"a synthesis pipeline needs steps of different names, got {names}")
        self.folder, self.steps, self.seed = Path(folder), list(steps), seed

    def run(
        self,
        prompts: Sequence[Prompt],
        rejected_prompts: Sequence[RejectedPrompt] = (),
        progress: Callable[[int, int, ItemState], object] | None = None,
        on_step: Callable[[Item, Step], object] | None = None,
    ) -> SynthesisReport:
        """Take every prompt through the steps that are still to do.

        rejected_prompts: of the curation, for the list of reasons. on_step(item, step) is called before a step is run,
        progress(done, total, state) after each item.
        An unexpected error quarantines its item as `error:<type>` and is tried again by the next run; a
        `BackendError` (a model that cannot be reached) stops the run.
        """
        if not prompts:
            raise Omni123Error("there are no prompts to synthesise; loosen the curation or give more")
        states: dict[str, ItemState] = {}
        for number, prompt in enumerate(prompts, start=1):
            state = states[prompt.id] = self._advance(prompt, on_step)
            if progress is not None:
                progress(number, len(prompts), state)
        refused = [{"id": key, **s.rejected} for key, s in states.items() if s.rejected is not None]
        refused += [
            {"id": r.prompt.id, "step": CURATION, "reason": r.reason, "detail": r.detail} for r in rejected_prompts
        ]
        temporary = self.folder / ".rejected.jsonl"
        temporary.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in refused), encoding="utf-8")
        temporary.replace(self.folder / "rejected.jsonl")
        finished = sum(state.rejected is None for state in states.values())
        outcomes = [StepOutcome(CURATION, len(states), _reasons(refused, CURATION))]
        for step in self.steps:
            passed = sum(step.name in state.done for state in states.values())
            outcomes.append(StepOutcome(step.name, passed, _reasons(refused, step.name)))
        return SynthesisReport(finished, dict(Counter(entry["reason"] for entry in refused)), outcomes)

    def assets(self, prompts: Sequence[Prompt], licence: str, attribution: str) -> list[SynthesizedAsset]:
        """The finished items among `prompts`. licence, attribution: of the generators' output, by their terms."""
        if not licence.strip() or not attribution.strip():
            raise Omni123Error(
                "synthesised assets need a licence and an attribution, by the terms of their generators"
            )
        found = []
        for prompt in {p.id: p for p in prompts}.values():
            item, state = self._open(prompt)
            if state.rejected is not None or not all(_is_done(state, step, prompt) for step in self.steps):
                continue
            captions = read_captions(item)
            category = captions.category or prompt.category or NO_CATEGORY
            attributes = {
                "prompt": prompt.text, "prompt_source": prompt.source, "prompt_licence": prompt.licence,
                "seed": item.seed, "steps": {step.name: state.done[step.name] for step in self.steps},
                "captions": captions.to_dict()["provenance"],
            }  # fmt: skip
            known = {name: value for name, value in prompt.extra.items() if name != "captions"}
            attributes |= {"prompt_extra": known} if known else {}
            attributes |= {"alignment": captions.alignment} if captions.alignment else {}
            found.append(
                SynthesizedAsset(
                    item.id, category, captions.captions, licence, attribution, str(item.mesh), attributes=attributes
                )
            )
        return found

    def _advance(self, prompt: Prompt, on_step: Callable[[Item, Step], object] | None) -> ItemState:
        item, state = self._open(prompt)
        item.folder.mkdir(parents=True, exist_ok=True)
        for step in self.steps:
            if _is_done(state, step, prompt):
                continue
            identity = _identity(step, prompt)
            refusal = state.rejected
            if refusal is not None and refusal["step"] == step.name:
                if refusal["identity"] == identity and not refusal["reason"].startswith("error:"):
                    break
            # This step is to run (again): what later steps made of its old result is no longer true.
            position = [other.name for other in self.steps].index(step.name)
            earlier = {other.name for other in self.steps[:position]}
            is_new = state.rejected is None and set(state.done) <= earlier
            state.done = {name: entry for name, entry in state.done.items() if name in earlier}
            state.rejected = None
            state.prompt = prompt.to_dict()
            if not is_new:
                # On disk first: a run that is stopped here must not take what this step leaves for the old result.
                write_json_atomic(item.folder / "state.json", vars(state))
            if on_step is not None:
                on_step(item, step)
            try:
                facts = step.run(item)
            except BackendError:
                raise
            except Exception as error:  # whatever is wrong with one item, it is named and the others go on
                reason = error.reason if isinstance(error, RejectedError) else f"error:{type(error).__name__}"
                detail = str(error) or type(error).__name__
                state.rejected = {"step": step.name, "identity": identity, "reason": reason, "detail": detail}
                write_json_atomic(item.folder / "state.json", vars(state))
                break
            state.done[step.name] = {"identity": identity, "facts": facts}
            write_json_atomic(item.folder / "state.json", vars(state))
        return state

    def _open(self, prompt: Prompt) -> tuple[Item, ItemState]:
        digest = hashlib.sha256(f"synthesis:{self.seed}:{prompt.id}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big") >> 1
        item = Item(prompt, seed, self.folder / "items" / prompt.id)
        path = item.folder / "state.json"
        if not path.is_file():
            return item, ItemState(prompt.to_dict(), seed)
        try:
            state = ItemState(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise Omni123Error(f"{path} is damaged; remove its folder to make the item again") from error
        # Another seed of the run makes another object of the same prompt: nothing of the old one holds.
        return item, state if state.seed == seed else ItemState(prompt.to_dict(), seed)


def _reasons(refused: Sequence[dict[str, Any]], step: str) -> dict[str, int]:
    return dict(Counter(entry["reason"] for entry in refused if entry["step"] == step).most_common())


def _identity(step: Step, prompt: Prompt) -> Any:
    """As it reads once it was written to JSON (tuples become lists)."""
    identity = json.loads(json.dumps(step.identity))
    if step.prompt_fields:
        said = json.dumps([getattr(prompt, name) for name in step.prompt_fields], sort_keys=True)
        identity["prompt"] = hashlib.sha256(said.encode()).hexdigest()[:16]
    return identity


def _is_done(state: ItemState, step: Step, prompt: Prompt) -> bool:
    return state.done.get(step.name, {}).get("identity") == _identity(step, prompt)
