"""Proof of a conversion: our models against inputs and outputs that the reference stored beside its weights.

The weights go the way of a user: converted, saved, loaded by `from_pretrained`.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from omni123_hf.conversion.cube3d import GPT_FILE, TOKENIZER_FILE, convert_cube3d
from omni123_hf.conversion.source_file import SourceFile
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.normalization import FIELD_BOUND
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.pipelines import Omni123TextTo3DPipeline


IO_FILE, CONFIG_FILE = "io.safetensors", "config.json"
INPUTS = ("text", "bbox", "ids", "points", "normals", "queries", "random_ids")
# What each output is computed from. `indices` are an output of the points and the input of their latents.
NEEDS = {
    "baked_token_table": (),
    "logits": ("text", "ids"),
    "encoder_out": ("points", "normals"),
    "indices": ("points", "normals"),
    "quantized": ("points", "normals"),
    "decoded_latents": ("indices",),
    "occupancy": ("indices", "queries"),
    "random_latents": ("random_ids",),
    "random_occupancy": ("random_ids", "queries"),
    "grid_occupancy": ("random_ids",),
}
QUERY_CHUNK = 65536


class Stored:
    """Tensors of `io.safetensors`; remembers which were read, so that no input is passed over in silence.

    Raises `Omni123Error` when an output is stored without what it is computed from: it would go unchecked.
    """

    def __init__(self, path: Path):
        file = SourceFile(str(path), IO_FILE)
        self.tensors = {name: file.tensor(name) for name in file.shapes}
        self.used: set[str] = set()
        lacking = [
            f"{output} (lacks {', '.join(missing)})"
            for output, needed in NEEDS.items()
            if self.has(output) and (missing := [name for name in needed if not self.has(name)])
        ]
        if lacking:
            raise Omni123Error(
                f"{IO_FILE} holds outputs without the inputs that they are computed from: {'; '.join(lacking)}. Store those "
                "inputs too, or leave these outputs out"
            )

    def has(self, *names: str) -> bool:
        return all(name in self.tensors for name in names)

    def __getitem__(self, name: str) -> torch.Tensor:
        self.used.add(name)
        tensor = self.tensors[name]
        return tensor.float() if tensor.is_floating_point() else tensor.long()


@torch.no_grad()
def verify_cube3d(folder: Path, tolerance: float = 1e-4) -> dict[str, Any]:
    """Converts the weights in `folder` and compares every stored output.

    `folder` holds `shape_gpt.safetensors`, `shape_tokenizer.safetensors`, `io.safetensors` and maybe `config.json`. Returns
    `errors` (greatest absolute error by output, for `indices` the number of differing ids; None where a value is not
    finite), `max`, `tolerance`, `passed`, `not_checked` (the stored tensors that took no part) and `unknown` (those of them
    that are no known input, with which nothing passes). Raises `Omni123Error` for bad input, for an output whose inputs are
    not stored, and when nothing can be compared.
    """
    if not 0 <= tolerance < math.inf:
        raise Omni123Error(f"the tolerance must be a finite number of at least 0; got {tolerance}")
    if not folder.is_dir():
        raise Omni123Error(
            f"no folder {str(folder)!r}; give one that holds {GPT_FILE}, {TOKENIZER_FILE} and {IO_FILE}"
        )
    missing = [name for name in (GPT_FILE, TOKENIZER_FILE, IO_FILE) if not (folder / name).is_file()]
    if missing:
        raise Omni123Error(f"the folder {str(folder)!r} lacks {', '.join(missing)}")
    stored = Stored(folder / IO_FILE)
    config = folder / CONFIG_FILE
    with tempfile.TemporaryDirectory(prefix="omni123-") as temporary:
        converted = Path(temporary) / "converted"
        convert_cube3d(
            str(folder / GPT_FILE),
            str(folder / TOKENIZER_FILE),
            converted,
            config=config if config.is_file() else None,
        )
        pipeline = Omni123TextTo3DPipeline.from_pretrained(converted)
    head = SourceFile(str(folder / GPT_FILE), GPT_FILE).tensor("lm_head.weight").float()
    try:
        results = {
            **gpt_outputs(pipeline.transformer, head, stored),
            **encoder_outputs(pipeline.shape_tokenizer, stored),
            **decoder_outputs(pipeline.shape_tokenizer, stored),
        }
        errors = {name: _error(name, ours, stored[name]) for name, ours in results.items()}
    except Omni123Error:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        # Stored inputs that do not go with each other or with these weights.
        raise Omni123Error(f"{IO_FILE} does not fit these weights: {' '.join(str(error).split())[:200]}") from error
    if not errors:
        raise Omni123Error(
            f"{IO_FILE} holds no output that can be compared; it has {', '.join(sorted(stored.tensors))}"
        )
    unused = set(stored.tensors) - set(errors) - stored.used
    unknown = unused.difference(INPUTS)
    worst = max(errors.values(), key=lambda value: (not math.isfinite(value), value))
    return {
        "errors": {name: value if math.isfinite(value) else None for name, value in errors.items()},
        "max": worst if math.isfinite(worst) else None,
        "tolerance": tolerance,
        "passed": worst <= tolerance and not unknown,
        "not_checked": sorted(unused),
        "unknown": sorted(unknown),
    }


def gpt_outputs(model: Omni123ForConditionalGeneration, head: torch.Tensor, stored: Stored) -> dict[str, torch.Tensor]:
    """`baked_token_table (K + 3, hidden)` and `logits (B, 1 + n, K + 3)` over [begin, ids]."""
    results = {}
    if stored.has("baked_token_table"):
        results["baked_token_table"] = model.embed_tokens.weight
    if stored.has("logits"):
        codes, ids = model.config.num_shape_codes, stored["ids"]
        start = torch.full_like(ids[:, :1], model.config.shape_start_id)
        has_box = stored.has("bbox") and model.config.use_bbox
        output = model(
            input_ids=torch.cat([start, ids], dim=1),
            text_embeds=stored["text"],
            bbox=stored["bbox"] if has_box else None,
        )
        # Our head has no rows for begin, end and padding, which are never generated: those columns come from the source's
        # own rows, so that all that is stored is compared.
        specials = F.linear(output.last_hidden_state, head[codes:])
        results["logits"] = torch.cat([output.shape_logits, specials], dim=-1)[..., : stored["logits"].shape[-1]]
    return results


def encoder_outputs(model: Omni123ShapeTokenizer, stored: Stored) -> dict[str, torch.Tensor]:
    """`encoder_out`, `indices (B, L)` and `quantized` of `points` and `normals (B, N, 3)`."""
    wanted = [name for name in ("encoder_out", "indices", "quantized") if stored.has(name)]
    if not wanted:
        return {}
    # Not `encode`, which checks that points are those of a normalised mesh: the stored ones need not be.
    hidden = model.encoder(model.point_embedding(stored["points"]), stored["normals"])
    indices = model.quantizer.encode(hidden[:, 1:])
    results = {"indices": indices}
    if "encoder_out" in wanted:
        # With or without the class token, which comes first.
        results["encoder_out"] = hidden[:, -stored["encoder_out"].shape[1] :]
    if "quantized" in wanted:
        # At the stored ids, so that a code that differs is counted once, under `indices`.
        ids = stored["indices"] if "indices" in wanted else indices
        in_width = stored["quantized"].shape[-1] == model.config.hidden_size
        results["quantized"] = model.quantizer.decode(ids) if in_width else F.embedding(ids, model.quantizer.codes())
    return {name: results[name] for name in wanted}


def decoder_outputs(model: Omni123ShapeTokenizer, stored: Stored) -> dict[str, torch.Tensor]:
    """Latents and occupancy of the ids of the stored points (`indices`), and of `random_ids`."""
    results = {}
    sources = (
        ("indices", {"decoded_latents": None, "occupancy": "queries"}),
        ("random_ids", {"random_latents": None, "random_occupancy": "queries", "grid_occupancy": "grid"}),
    )
    for ids, outputs in sources:
        wanted = [name for name in outputs if stored.has(name)]
        if not wanted:
            continue
        latents = model.decode_latents(stored[ids])
        memory = model.project_latents(latents)
        for name in wanted:
            if outputs[name] is None:
                results[name] = latents
            elif outputs[name] == "queries":
                results[name] = _field(model, memory, stored["queries"].expand(len(latents), -1, -1))
            else:
                side = round((stored[name].numel() / len(latents)) ** (1 / 3))
                grid = _field(model, memory, grid_points(side).expand(len(latents), -1, -1))
                results[name] = grid.reshape(stored[name].shape)
    return results


def grid_points(side: int) -> torch.Tensor:
    """Points (1, side³, 3) over ±1.05, both ends included, in the order x, y, z with z fastest ("ij")."""
    axis = torch.linspace(-FIELD_BOUND, FIELD_BOUND, side)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(1, -1, 3)


def _field(model: Omni123ShapeTokenizer, memory: Any, queries: torch.Tensor) -> torch.Tensor:
    return torch.cat([model.query(memory, part) for part in queries.split(QUERY_CHUNK, dim=1)], dim=1)


def _error(name: str, ours: torch.Tensor, stored: torch.Tensor) -> float | int:
    if stored.numel() == 0:
        raise Omni123Error(f"{name} is stored without a value: there is nothing to compare")
    if stored.ndim == ours.ndim + 1 and stored.shape[-1] == 1:
        stored = stored.squeeze(-1)
    if ours.shape != stored.shape:
        raise Omni123Error(f"{name} is stored as {tuple(stored.shape)} and these weights give {tuple(ours.shape)}")
    if name == "indices":
        return int((ours != stored).sum())
    return float((ours.double() - stored.double()).abs().max())
