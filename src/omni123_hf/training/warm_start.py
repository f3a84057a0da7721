"""A new backbone that begins with the weights of another one, such as a converted Cube 3D checkpoint (`omni123 convert cube3d`).

Equal parts are copied; vocabulary rows go by what they mean (shape codes, start tokens, image codes, views). Layers that
the new model has beyond the old one go behind the old ones and begin as the identity (residual branches of zero), and the
old last dual layer stays the last. Where the settings agree, the new model so computes exactly what the old one did on the
tasks that the old one knows. The paper trains from scratch; this is ours (`docs/paper_decisions.md`).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import Omni123Error
from ..modeling.blocks_omni123 import StreamOutput
from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.modeling_omni123 import Omni123ForConditionalGeneration


logger = logging.getLogger(__name__)

# They must agree, or no layer fits.
SIZES = ("hidden_size", "num_attention_heads", "head_dim", "mlp_ratio", "num_shape_codes")
# They change what the copied weights compute, and the new model may want them otherwise.
SETTINGS = (
    "num_shape_tokens",
    "rope_theta",
    "layer_norm_eps",
    "qk_norm_eps",
    "use_bias",
    "normalize_text_embeds",
    "text_causal",
    "null_condition",
    "use_bbox",
    "text_embed_dim",
    "text_embed_dim_2",
)


@dataclass(frozen=True)
class WarmStart:
    """What came of it: names of the parameters that were copied and of those that are new, and settings that differ."""

    copied: list[str]
    new: list[str]
    differing_settings: dict[str, tuple[object, object]]


@torch.no_grad()
def warm_start(target: Omni123ForConditionalGeneration, folder: Path) -> WarmStart:
    """Fills `target` from the backbone in `folder` (or its `transformer/`). Raises `Omni123Error` when sizes do not fit."""
    folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
    if not (folder / "config.json").is_file():
        raise Omni123Error(
            f"{folder} holds no backbone to warm-start from: give a checkpoint or its transformer folder."
        )
    source = Omni123ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    check_sizes(source.config, target.config)
    layers = layer_map(source.config, target.config)
    wanted = target.state_dict()
    copied: list[str] = []
    for name, value in source.state_dict().items():
        place = target_name(name, layers)
        if place == "embed_tokens.weight":
            copy_rows(wanted[place], value, source.config, target.config)
        elif place in wanted and wanted[place].shape == value.shape and not place.endswith("_code_table"):
            wanted[place].copy_(value)
        else:
            continue
        copied.append(place)
    if target.shape_code_proj is not None and source.shape_code_proj is None:
        # The old table holds the code vectors' projection already.
        target.shape_code_proj.weight.zero_()
    quiet_new_layers(target, set(layers.values()))
    report = WarmStart(
        sorted(copied),
        sorted(set(wanted) - set(copied)),
        {
            name: (getattr(source.config, name), getattr(target.config, name))
            for name in SETTINGS
            if getattr(source.config, name) != getattr(target.config, name)
        },
    )
    logger.warning(
        "warm start from %s: %d tensors copied, %d new; settings that differ: %s",
        folder.name,
        len(report.copied),
        len(report.new),
        report.differing_settings or "none",
    )
    return report


def check_sizes(source: Omni123Config, target: Omni123Config) -> None:
    differing = [name for name in SIZES if getattr(source, name) != getattr(target, name)]
    if differing:
        name = differing[0]
        raise Omni123Error(
            f"{name} is {getattr(target, name)} in the recipe's model and {getattr(source, name)} in the checkpoint to "
            "warm-start from: both must agree."
        )
    for name in ("num_dual_layers", "num_single_layers"):
        if getattr(source, name) > getattr(target, name):
            raise Omni123Error(
                f"the checkpoint to warm-start from has {getattr(source, name)} {name} and the recipe's model only "
                f"{getattr(target, name)}: give at least as many."
            )


def layer_map(source: Omni123Config, target: Omni123Config) -> dict[str, str]:
    """Name of each old block to that of the new one it goes to."""
    last = source.num_dual_layers - 1
    names = {f"dual_blocks.{i}": f"dual_blocks.{i}" for i in range(last)}
    names[f"dual_blocks.{last}"] = f"dual_blocks.{target.num_dual_layers - 1}"
    return {**names, **{f"single_blocks.{i}": f"single_blocks.{i}" for i in range(source.num_single_layers)}}


def target_name(name: str, layers: dict[str, str]) -> str:
    block, rest = ".".join(name.split(".")[:2]), name.split(".")[2:]
    return ".".join([layers[block], *rest]) if block in layers else name


def copy_rows(table: torch.Tensor, old: torch.Tensor, source: Omni123Config, target: Omni123Config) -> None:
    """Rows of the vocabulary by meaning; image rows only where both models have the same image codes."""
    pairs = [(range(source.num_shape_codes), 0, 0), (range(1), source.shape_start_id, target.shape_start_id)]
    if source.num_image_codes and source.num_image_codes == target.num_image_codes:
        pairs.append((range(source.num_image_codes), source.image_offset, target.image_offset))
        pairs.append((range(1), source.image_start_id, target.image_start_id))
    pairs.append((range(min(source.num_views, target.num_views)), source.view_offset, target.view_offset))
    for rows, start, place in pairs:
        table[place : place + len(rows)] = old[start : start + len(rows)]


def quiet_new_layers(target: Omni123ForConditionalGeneration, filled: set[str]) -> None:
    """Makes every layer that got no weights the identity: its residual branches add nothing until they are trained."""
    for name, module in target.named_modules():
        if isinstance(module, StreamOutput) and ".".join(name.split(".")[:2]) not in filled:
            for linear in (module.o_proj, module.down_proj):
                linear.weight.zero_()
                if linear.bias is not None:
                    linear.bias.zero_()
