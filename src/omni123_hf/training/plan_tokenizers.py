"""Plans of the tokenizer stages and of `tokenize`: operations and activations measured on the meta device.

The networks run without their quantisers, whose choices need data; comparing every token with every code is added by its formula,
two operations for each of tokens × codes × code width. Self-distillation, perceptual losses and the entropy term are left out.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DINOv3ViTConfig

from ..data.store import AssetStore
from ..errors import Omni123Error
from ..geometry.cameras import ALL_VIEWS
from ..modeling.configuration_image_tokenizer import Omni123ImageTokenizerConfig
from ..modeling.configuration_image_vae import Omni123ImageVAEConfig
from ..modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from ..modeling.modeling_image_tokenizer import Omni123ImageTokenizer, multi_level_pool
from ..modeling.modeling_image_vae import Omni123ImageVAE
from ..modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from ..modeling.parameter_tables import (
    image_tokenizer_parameter_table,
    image_vae_parameter_table,
    shape_tokenizer_parameter_table,
)
from .plan import Findings, Plan, PlanSettings, check_training, micro_batches, uses_bf16
from .plan_memory import saved_bytes, state_bytes, tensors_of
from .recipe import Recipe, build_config, check_fields, stage_options
from .shape_tokenizer import OPTIONS as SHAPE_OPTIONS
from .shape_tokenizer import freeze_tokens


Networks = dict[str, nn.Module]
Run = Callable[[], torch.Tensor]


def fill(plan: Plan, recipe: Recipe, settings: PlanSettings, earlier: Mapping[str, Recipe]) -> None:
    """Fills the sections of a plan; stops at what a refusal makes unknown."""
    findings = plan.findings
    store = None
    if not Path(recipe.data["root"]).is_dir():
        findings.missing.append(f"{recipe.data['root']} (data)")
    else:
        store = findings.attempt(AssetStore.open, recipe.data["root"])
    training = recipe.stage != "tokenize"
    if training:
        findings.attempt(check_training, recipe)
    batches = findings.attempt(micro_batches, recipe.training, settings.devices) if training else None
    rows = batches[0] if batches else int(recipe.options.get("batch_size", 32))
    # The meta device for all: fake tensors would stay in the cache of positions that DINOv3 keeps for the next real image.
    with torch.device("meta"):
        built = findings.attempt(BUILDERS[recipe.stage], recipe, earlier, store, findings, rows)
        if built is None:
            return
        networks, run, tokens, comparisons = built
        plan.parameters = count_parameters(networks)
        with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
            weights = [tensor for network in networks.values() for tensor in tensors_of(network)]
            result: list[torch.Tensor] = []
            kept = saved_bytes(lambda: result.append(run()), weights)
            if training:
                result[0].sum().backward()
    operations = counter.get_total_flops() + comparisons
    if training and (batches is None or "max_steps" not in recipe.training):
        return
    if training:
        samples = rows * batches[1] * settings.devices  # type: ignore[index]
        steps = recipe.training["max_steps"]
        memory = state_bytes(plan.parameters["trainable"], plan.parameters["frozen"], 0, 1, settings.devices)
        if settings.sharding > 1:
            findings.refused.append("tokenizers train data-parallel: leave --shard out.")
        plan.memory = {"keeping_activations": {**memory, "activations": kept}, "recipe": "keeping_activations"}
        plan.memory["keeping_activations"]["total"] = sum(plan.memory["keeping_activations"].values())
        plan.memory["precision"] = "float32"
        if uses_bf16(recipe.training):
            plan.memory["precision"] = "bf16 autocast, float32 weights"
            findings.assumptions.append("activations are counted in float32: an upper limit under bf16 autocast")
    else:
        samples = rows
        if store is None:
            findings.missing.append("the number of assets, so steps and time are those of one batch")
        steps = -(-len(store) // rows) if store is not None else 1
    plan.step = {"samples": samples, "tokens": samples * tokens, "micro_batch": rows}
    plan.step["micro_batches"] = batches[1] if batches else 1
    plan.run = {"steps": steps, "samples": samples * steps, "tokens": samples * steps * tokens}
    plan.operations = {
        "per_sample": operations / rows,
        "per_token": operations / rows / tokens,
        "per_step": operations / rows * samples,
        "total": operations / rows * samples * steps,
    }


def count_parameters(networks: Networks) -> dict[str, Any]:
    tables = {
        Omni123ShapeTokenizer: shape_tokenizer_parameter_table,
        Omni123ImageVAE: image_vae_parameter_table,
        Omni123ImageTokenizer: image_tokenizer_parameter_table,
    }
    table: dict[str, Any] = {name: tables[type(network)](network) for name, network in networks.items()}  # type: ignore[index, operator]
    every = [parameter for network in networks.values() for parameter in network.parameters()]
    table["trainable"] = sum(parameter.numel() for parameter in every if parameter.requires_grad)
    table["frozen"] = sum(parameter.numel() for parameter in every) - table["trainable"]
    return table


def planned_config(config_class: Any, section: Mapping[str, Any], key: str, earlier: Mapping[str, Recipe]) -> Any:
    """The configuration of a model section with `key` (`from_pretrained`), of a folder, or of the recipe that writes it."""
    fields = dict(section)
    initial, encoder = fields.pop(key, None), fields.pop("encoder", None)
    if initial is None and encoder is not None:
        return config_around(encoder, fields)
    if initial is None:
        return build_config(config_class, fields)
    if (Path(initial) / "config.json").is_file():
        base = config_class.from_pretrained(initial)
    elif str(Path(initial)) in earlier:
        before = {name: value for name, value in earlier[str(Path(initial))].model.items() if name != "image_vae"}
        rest = {path: recipe for path, recipe in earlier.items() if path != str(Path(initial))}
        base = planned_config(config_class, before, "from_pretrained", rest)
    else:
        raise Omni123Error(f"{initial} is not here, and no recipe beside this one writes it: its sizes are unknown.")
    check_fields(base, fields)
    return config_class(**{**base.to_diff_dict(), **fields})


def config_around(encoder: str, fields: dict[str, Any]) -> Omni123ImageVAEConfig:
    """The VAE that `Omni123ImageVAE.from_dinov3` would build around the encoder of a folder; around DINOv3-L for a Hub id."""
    sizes = {name: value for name, value in fields.items() if name != "preset"}
    if not (Path(encoder) / "config.json").is_file():
        return Omni123ImageVAEConfig(**sizes)
    return Omni123ImageVAEConfig.for_encoder(DINOv3ViTConfig.from_pretrained(encoder), **sizes)


def plan_shape_tokenizer(
    recipe: Recipe, earlier: Mapping[str, Recipe], store: AssetStore | None, findings: Findings, rows: int
) -> tuple[Networks, Run, int, float]:
    options = stage_options(recipe, SHAPE_OPTIONS)
    config = planned_config(Omni123ShapeTokenizerConfig, recipe.model, "from_pretrained", earlier)
    model = Omni123ShapeTokenizer(config).train()
    if options["freeze_tokens"]:
        freeze_tokens(model)
    if options["self_distillation"]:
        findings.assumptions.append("self-distillation is not counted: its teacher and student passes come on top")
    run = shape_run(model, rows, options["points"], options["queries"])
    tokens = config.num_latents
    return {"shape_tokenizer": model}, run, tokens, 2.0 * rows * tokens * config.num_codes * config.code_dim


def shape_run(model: Omni123ShapeTokenizer, rows: int, points: int, queries: int) -> Run:
    def run() -> torch.Tensor:
        surface = model.point_embedding(torch.empty(rows, points, 3))
        hidden = model.encoder(surface, torch.empty(rows, points, 3))[:, 1:]
        latents = model.quantizer.out_proj(model.quantizer.in_proj(hidden))
        if not queries:
            return latents
        return model.occupancy_head(model.point_embedding(torch.empty(rows, queries, 3)), model.decoder(latents)[0])

    return run


def image_side(store: AssetStore | None, config: Omni123ImageVAEConfig) -> int:
    return config.image_size if store is None else store.sizes.view_size


def vae_latent(model: Omni123ImageVAE, rows: int, side: int) -> torch.Tensor:
    """What `encode` computes, without its look at the values: `(rows, channels, h, w)`."""
    config = model.config
    with torch.set_grad_enabled(torch.is_grad_enabled() and not config.freeze_encoder):
        outputs = model.encoder(torch.empty(rows, 3, side, side), output_hidden_states=True)
    skipped = model.num_prefix_tokens
    taps = torch.cat([outputs.hidden_states[tap][:, skipped:] for tap in config.texture_taps], dim=-1)
    tokens = torch.cat([model.semantic_proj(outputs.last_hidden_state[:, skipped:]), model.texture_head(taps)], dim=-1)
    cells = side // config.patch_size
    return tokens.transpose(1, 2).unflatten(-1, (cells, cells))


def plan_image_vae(
    recipe: Recipe, earlier: Mapping[str, Recipe], store: AssetStore | None, findings: Findings, rows: int
) -> tuple[Networks, Run, int, float]:
    encoder = recipe.model.get("encoder")
    if encoder is not None and not (Path(encoder) / "config.json").is_file():
        findings.assumptions.append(f"{encoder} is not here: sizes of the paper's encoder, DINOv3 ViT-L/16")
    config = planned_config(Omni123ImageVAEConfig, recipe.model, "from_pretrained", earlier)
    if config.freeze_encoder and "from_pretrained" not in recipe.model and encoder is None:
        findings.refused.append(
            "freeze_encoder is set, but the recipe names no encoder weights: give model.encoder (a DINOv3 checkpoint) or set "
            "model.freeze_encoder to false."
        )
    model = Omni123ImageVAE(config).train()
    side = image_side(store, config)
    cells = (side // config.patch_size) ** 2
    return {"image_vae": model}, lambda: model.decoder(vae_latent(model, rows, side)), cells, 0.0


def tokenizer_codes(model: Omni123ImageTokenizer, latent: torch.Tensor) -> torch.Tensor:
    """Tokens `(B, N, code_dim)` before quantisation, without the look at the values."""
    grid = (latent.shape[2], latent.shape[3])
    count = model.tokens_for(grid)
    memory = model.latent_proj(model.latent_norm(latent.flatten(2).transpose(1, 2)))
    queries = model.query_proj(multi_level_pool(memory.transpose(1, 2).unflatten(-1, grid), count))
    hidden = model.encoder(queries, model.encoder_position_1d[:count], memory, model.encoder_position_2d(grid, memory))
    return model.code_proj(hidden)


def plan_image_tokenizer(
    recipe: Recipe, earlier: Mapping[str, Recipe], store: AssetStore | None, findings: Findings, rows: int
) -> tuple[Networks, Run, int, float]:
    fields = dict(recipe.model)
    folder = fields.pop("image_vae", None)
    if not folder:
        raise Omni123Error("the recipe's model section needs image_vae, the folder of a trained image VAE.")
    vae_config = planned_config(Omni123ImageVAEConfig, {"image_vae": folder}, "image_vae", earlier)
    if "from_pretrained" not in fields:
        fields |= {"latent_dim": vae_config.latent_dim, "semantic_dim": vae_config.semantic_dim}
    config = planned_config(Omni123ImageTokenizerConfig, fields, "from_pretrained", earlier)
    model = Omni123ImageTokenizer(config).train()
    vae = Omni123ImageVAE(vae_config).eval()
    vae.requires_grad_(False)
    side = image_side(store, vae_config)
    cells = side // vae_config.patch_size
    tokens = model.tokens_for((cells, cells))
    pixels = float(recipe.options.get("pixel_loss_weight", 0.0)) > 0

    def run() -> torch.Tensor:
        with torch.no_grad():
            latent = vae_latent(vae, rows, side)
        decoded = model._decode_from_code_space(tokenizer_codes(model, latent), (cells, cells))
        return vae.decoder(decoded) if pixels else decoded

    return (
        {"image_tokenizer": model, "image_vae": vae},
        run,
        tokens,
        2.0 * rows * tokens * config.num_codes * config.code_dim,
    )


def plan_tokenize(
    recipe: Recipe, earlier: Mapping[str, Recipe], store: AssetStore | None, findings: Findings, rows: int
) -> tuple[Networks, Run, int, float]:
    classes: dict[str, tuple[Any, Any]] = {
        "shape_tokenizer": (Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig),
        "image_vae": (Omni123ImageVAE, Omni123ImageVAEConfig),
        "image_tokenizer": (Omni123ImageTokenizer, Omni123ImageTokenizerConfig),
    }
    networks: Networks = {}
    for name, (model_class, config_class) in classes.items():
        section = {name: recipe.model[name]}
        networks[name] = model_class(planned_config(config_class, section, name, earlier)).eval()
        networks[name].requires_grad_(False)
    shape: Any = networks["shape_tokenizer"]
    vae: Any = networks["image_vae"]
    tokenizer: Any = networks["image_tokenizer"]
    views = len(recipe.options.get("views", ALL_VIEWS))
    side = image_side(store, vae.config)
    points = store.sizes.surface_points if store is not None else 2048
    if store is None:
        findings.assumptions.append(f"{points} surface points an asset")
    cells = side // vae.config.patch_size
    images = views * tokenizer.tokens_for((cells, cells))

    def run() -> torch.Tensor:
        shape_run(shape, rows, points, 0)()
        return tokenizer_codes(tokenizer, vae_latent(vae, rows * views, side))

    comparisons = shape.config.num_latents * shape.config.num_codes * shape.config.code_dim
    comparisons += images * tokenizer.config.num_codes * tokenizer.config.code_dim
    return networks, run, shape.config.num_latents + images, 2.0 * rows * comparisons


BUILDERS: dict[str, Callable[..., tuple[Networks, Run, int, float]]] = {
    "shape-tokenizer": plan_shape_tokenizer,
    "image-vae": plan_image_vae,
    "image-tokenizer": plan_image_tokenizer,
    "tokenize": plan_tokenize,
}
