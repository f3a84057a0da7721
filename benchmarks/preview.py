"""What a preview of an unfinished shape should put in the place of the codes that are not there yet.

python benchmarks/preview.py --model omni123-mini --out benchmarks/results/preview_mini.json

Ten prompts, text -> 3D, greedy, with the checkpoint's guidance. At 25, 50 and 75 % of a shape's codes, each completion is decoded
and compared with the finished shape: IoU of what is inside at the points of a regular grid over ±1.05. `seconds` is one completed
and decoded row, on the machine that ran this.

For edits, `source` takes the missing codes from the shape before. It is measured on pairs of shapes without the backbone: a box
with another part or other proportions, both encoded by the tokenizer.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import trimesh

from omni123_hf.geometry.extraction import evaluate_grid
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.modeling.tasks import build_sequence, get_task
from omni123_hf.pipelines import Omni123TextTo3DPipeline
from omni123_hf.pipelines.preview_callback import COMPLETIONS, SOURCE_COMPLETION, partial_field
from omni123_hf.pipelines.shape_input import encode_shapes


SHARES = (0.25, 0.5, 0.75)
PROMPTS = (
    "a round wooden table with three legs",
    "a red chair with four legs and a high back",
    "a tall vase",
    "a mug with a handle",
    "a bookshelf with three shelves",
    "a floor lamp",
    "a toy car with four wheels",
    "a bench",
    "a bottle",
    "a house with a pointed roof",
)


def inside(field: Callable[[np.ndarray], np.ndarray], resolution: int) -> np.ndarray:
    return evaluate_grid(field, resolution, FIELD_BOUND) > 0


def iou(one: np.ndarray, other: np.ndarray) -> float:
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


@torch.no_grad()
def parallel_guess(pipeline: Omni123TextTo3DPipeline, prompt: str, known: torch.Tensor, total: int) -> torch.Tensor:
    """Codes (total,) whose unknown ones are the argmax of one guided pass over `known`, the last code repeated."""
    text = pipeline.encode_prompt([prompt])
    filled = torch.cat([known, known[-1:].expand(total - len(known))])
    sequence = build_sequence(get_task("text-to-3d"), {"shape": filled[None]}, pipeline.transformer.config)
    rows = 2
    output = pipeline.transformer(
        sequence.ids.to(pipeline.device).expand(rows, -1),
        text_embeds=text.text_embeds.expand(rows, -1, -1),
        text_embeds_2=None if text.text_embeds_2 is None else text.text_embeds_2.expand(rows, -1, -1),
        text_attention_mask_2=None
        if text.text_attention_mask_2 is None
        else text.text_attention_mask_2.expand(rows, -1),
        null_text=torch.tensor([False, True]),
        modality="shape",
        logits_to_keep=total + 1,
    )
    scale = pipeline.guidance(None, None)[0]
    conditional, unconditional = output.shape_logits[:, :-1].float()
    guess = (unconditional + scale * (conditional - unconditional)).argmax(dim=-1)
    return torch.cat([known, guess[len(known) :]])


def measure_text(pipeline: Omni123TextTo3DPipeline, resolution: int) -> dict:
    """Completion to share to mean IoU, and the seconds of a completion."""
    names = [*COMPLETIONS, "parallel pass"]
    found: dict[str, dict[float, list[float]]] = {name: {share: [] for share in SHARES} for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    tokenizer = pipeline.shape_tokenizer
    for prompt in PROMPTS:
        tokens = pipeline(prompt, output_type="tokens").shape_tokens[0]
        final = inside(partial_field(tokens, tokenizer, COMPLETIONS[0]), resolution)
        for share in SHARES:
            known = tokens[: round(share * len(tokens))]
            for name in names:
                started = time.perf_counter()
                if name == "parallel pass":
                    guess = parallel_guess(pipeline, prompt, known, len(tokens))
                    field = partial_field(guess, tokenizer, COMPLETIONS[0])
                else:
                    field = partial_field(known, tokenizer, name)
                found[name][share].append(iou(inside(field, resolution), final))
                seconds[name].append(time.perf_counter() - started)
    return {
        name: {
            **{f"{share:.0%}": round(float(np.mean(values)), 3) for share, values in found[name].items()},
            "seconds": round(float(np.mean(seconds[name])), 3),
        }
        for name in names
    }


def edited_pairs() -> list[tuple[trimesh.Trimesh, trimesh.Trimesh]]:
    """Ten shapes before and after a local or a global change."""
    pairs = []
    for height in (0.3, 0.6, 0.9, 1.2, 1.5):
        base = trimesh.creation.box((1.6, height, 1.2))
        knob = trimesh.creation.icosphere(3, radius=0.35)
        knob.apply_translation((0.4, height / 2 + 0.2, 0.0))
        pairs.append((base, trimesh.boolean.union([base, knob])))
        pairs.append((base, trimesh.creation.box((1.6, height, 0.7))))
    return pairs


def measure_edits(pipeline: Omni123TextTo3DPipeline, resolution: int) -> dict:
    names = [*COMPLETIONS, SOURCE_COMPLETION]
    found: dict[str, dict[float, list[float]]] = {name: {share: [] for share in SHARES} for name in names}
    tokenizer = pipeline.shape_tokenizer
    for before, after in edited_pairs():
        old, new = encode_shapes([before, after], tokenizer).tokens
        final = inside(partial_field(new, tokenizer, COMPLETIONS[0]), resolution)
        for share in SHARES:
            known = new[: round(share * len(new))]
            for name in names:
                field = partial_field(known, tokenizer, name, source=old)
                found[name][share].append(iou(inside(field, resolution), final))
    return {
        name: {f"{share:.0%}": round(float(np.mean(values)), 3) for share, values in found[name].items()}
        for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="omni123-mini")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    pipeline = Omni123TextTo3DPipeline.from_pretrained(arguments.model)
    record = {
        "model": arguments.model,
        "revision": pipeline.revision,
        "resolution": arguments.resolution,
        "text to 3D": measure_text(pipeline, arguments.resolution),
        "edits": measure_edits(pipeline, arguments.resolution),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
