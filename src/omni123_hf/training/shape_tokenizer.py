"""Stage `shape-tokenizer`: occupancy autoencoding with an optimal-transport code book (paper §4.2; Cube 3D, arXiv 2503.15475)."""

from pathlib import Path

import numpy as np
import torch

from ..data.store import AssetStore
from ..errors import Omni123Error
from ..modeling.anchored_initialization import initialize_anchored
from ..modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from .recipe import Recipe, build_config, load_pretrained
from .runner import CounterDataset, TokenizerTrainer, run, samples_in_run, training_arguments


def draw_shape(store: AssetStore, index: int, rng: np.random.Generator, points: int, queries: int, uniform: float):
    """Random surface points and labelled queries of one asset; `uniform` is the share of queries from the whole box."""
    surface = np.asarray(store.surface(index), dtype=np.float32)
    rows = rng.choice(len(surface), points, replace=points > len(surface))
    half = store.sizes.queries // 2
    count = int(queries * uniform)
    chosen = np.concatenate([rng.choice(half, count, False), half + rng.choice(half, queries - count, False)])
    return {
        "points": torch.from_numpy(np.clip(surface[rows, :3], -1.05, 1.05)),
        "normals": torch.from_numpy(surface[rows, 3:]),
        "queries": torch.from_numpy(np.asarray(store.queries(index)[chosen], dtype=np.float32)),
        "occupancy": torch.from_numpy(store.occupancy(index)[chosen].astype(np.float32)),
    }


def stack(samples: list[dict]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


@torch.no_grad()
def reconstruction_metrics(
    model: Omni123ShapeTokenizer, store: AssetStore, indices: np.ndarray, points: int, seed: int = 0, batch: int = 16
) -> dict[str, float]:
    """Mean volume IoU (uniform queries) and near-surface IoU through nearest codes, by source, and code use."""
    scores: dict[str, list[float]] = {}
    used: set[int] = set()
    half = store.sizes.queries // 2
    for start in range(0, len(indices), batch):
        rows = indices[start : start + batch]
        drawn = stack([draw_shape(store, int(i), np.random.default_rng((seed, int(i))), points, 2, 0.5) for i in rows])
        device = model.device
        tokens = model.encode(drawn["points"].to(device), drawn["normals"].to(device))
        used.update(tokens.flatten().tolist())
        memory = model.project_latents(model.decode_latents(tokens))
        queries = torch.from_numpy(np.stack([store.queries(int(i)) for i in rows]).astype(np.float32)).to(device)
        inside = np.concatenate(
            [(model.query(memory, part) > 0).cpu().numpy() for part in queries.split(2048, dim=1)], axis=1
        )
        for row, predicted in zip(rows, inside, strict=True):
            truth = store.occupancy(int(row))
            kind = "parametric" if store.records[int(row)].source == "parametric" else "real"
            for name, part in (("volume_iou", slice(0, half)), ("surface_iou", slice(half, None))):
                union = (predicted[part] | truth[part]).sum()
                value = (predicted[part] & truth[part]).sum() / union if union else 1.0
                scores.setdefault(f"{name}_{kind}", []).append(float(value))
    figures = {name: float(np.mean(values)) for name, values in scores.items()}
    figures["codes_used"] = len(used) / model.config.num_codes
    return figures


class ShapeTokenizerTrainer(TokenizerTrainer):
    """Starts the code book from data after a warm-up without quantisation; validates by IoU through nearest codes."""

    model: Omni123ShapeTokenizer

    def __init__(self, *args, vq_warmup_steps: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.vq_warmup_steps = vq_warmup_steps
        self.codebook_started = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        tokenizer = self.accelerator.unwrap_model(model)
        step = self.state.global_step
        quantize = step >= self.vq_warmup_steps
        # Once: with gradient accumulation several micro-batches belong to this step.
        if step == self.vq_warmup_steps > 0 and model.training and not self.codebook_started:
            self.codebook_started = True
            self.start_codebook(tokenizer, inputs)
        output = model(**inputs, quantize=quantize)
        for name in ("occupancy_loss", "quantizer_loss"):
            self.parts.setdefault(name, []).append(float(getattr(output, name)))
        if output.indices is not None:
            counts = torch.bincount(output.indices.flatten(), minlength=tokenizer.config.num_codes)
            self.parts.setdefault("batch_codes_used", []).append(float((counts > 0).float().mean()))
        return (output.loss, output) if return_outputs else output.loss

    @torch.no_grad()
    def start_codebook(self, tokenizer: Omni123ShapeTokenizer, inputs) -> None:
        hidden = tokenizer.encode_latents(inputs["points"], inputs["normals"])
        z = tokenizer.quantizer.project(hidden).flatten(0, 1)
        generator = torch.Generator(device=z.device).manual_seed(self.args.seed)
        tokenizer.quantizer.initialize_from(z, generator)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Every rank saw other samples, and parallel training equalises gradients only, never these writes.
            torch.distributed.broadcast(tokenizer.quantizer.codebook.weight, 0)


def source_weights(store: AssetStore, indices: np.ndarray, real_share: float) -> np.ndarray:
    """Sampling probabilities that give real assets `real_share` of all draws (their natural share when one is absent)."""
    if not len(indices):
        raise Omni123Error("the data set has no assets in split 'train': prepare more assets.")
    if not 0 <= real_share <= 1:
        raise Omni123Error(f"real_share is {real_share}: it must lie in [0, 1].")
    real = np.array([store.records[int(i)].source != "parametric" for i in indices])
    if not real.any() or real.all():
        return np.full(len(indices), 1 / len(indices))
    return np.where(real, real_share / real.sum(), (1 - real_share) / (~real).sum())


def held_in_assets(store: AssetStore, count: int, seed: int) -> np.ndarray:
    """Rows of at most `count` assets of the validation split, drawn by `seed`."""
    indices = store.indices("validation")
    if not len(indices):
        raise Omni123Error("the data set has no assets in split 'validation': prepare more assets.")
    return np.random.default_rng(seed).permutation(indices)[:count]


def freeze_tokens(model: Omni123ShapeTokenizer) -> None:
    """Leaves only the parts behind the codes trainable: shapes keep their tokens, and what reads them goes on learning."""
    model.requires_grad_(False)
    for module in (model.quantizer.out_proj, model.decoder, model.occupancy_head):
        module.requires_grad_(True)


def build_model(recipe: Recipe, options: dict) -> Omni123ShapeTokenizer:
    """A new model, or with `model.from_pretrained` a trained one; other fields of the section change its configuration."""
    fields = dict(recipe.model)
    initial = fields.pop("from_pretrained", None)
    if initial is None:
        model = Omni123ShapeTokenizer(build_config(Omni123ShapeTokenizerConfig, fields))
        if options["anchored_initialization"]:
            initialize_anchored(model)
    else:
        model = load_pretrained(Omni123ShapeTokenizer, initial, fields)
        options["vq_warmup_steps"] = 0
    if options["freeze_tokens"]:
        if initial is None:
            raise Omni123Error("freeze_tokens needs a trained model: give model.from_pretrained.")
        freeze_tokens(model)
    return model.float()


def train(recipe: Recipe) -> dict[str, float]:
    """Trains the shape tokenizer of a recipe; writes `final/` in the output folder and returns validation figures."""
    store = AssetStore.open(recipe.data["root"])
    options = {
        "points": 512,
        "queries": 512,
        "uniform": 0.5,
        "real_share": 0.5,
        "vq_warmup_steps": 300,
        "validation_assets": 96,
        "anchored_initialization": False,
        "freeze_tokens": False,
        **recipe.options,
    }
    torch.manual_seed(recipe.seed)
    arguments = training_arguments(recipe)
    model = build_model(recipe, options)
    indices = store.indices("train")
    weights = source_weights(store, indices, options["real_share"])
    held_in = held_in_assets(store, options["validation_assets"], recipe.seed)

    def draw(rng: np.random.Generator, k: int):
        index = int(rng.choice(indices, p=weights))
        return draw_shape(store, index, rng, options["points"], options["queries"], options["uniform"])

    trainer = ShapeTokenizerTrainer(
        model=model,
        args=arguments,
        train_dataset=CounterDataset(draw, samples_in_run(arguments), recipe.seed),
        eval_dataset=CounterDataset(draw, 1, recipe.seed),
        data_collator=stack,
        vq_warmup_steps=options["vq_warmup_steps"],
        validate=lambda model: reconstruction_metrics(model, store, held_in, store.sizes.surface_points),
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)

    return run(trainer, recipe, save)
