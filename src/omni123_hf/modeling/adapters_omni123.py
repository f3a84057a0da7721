"""What PEFT's adapters make of a module's weights, so that fast decoding can read them while nothing is merged.

The product of a LoRA layer, `W x + scaling B A x` summed over its active adapters, is that of `W + scaling B A`. Here that sum is
computed as PEFT merges it (`get_delta_weight`, rounded to the type of W), into a tensor of its own; the module stays as it is.
Adapters that are more than such a sum (DoRA and other variants, other tuners) are named by `why_not_foldable`.
"""

import sys
from typing import Any

import torch
from torch import nn


def _peft() -> Any:
    """PEFT where something has imported it; a model can carry its layers only then."""
    if "peft" not in sys.modules:
        return None
    from peft.tuners import lora, tuners_utils
    from peft.utils import other

    return {
        "folded": (lora.Linear, lora.Embedding),
        "saved": (other.ModulesToSaveWrapper,),
        "all": (tuners_utils.BaseTunerLayer, other.AuxiliaryTrainingWrapper),
    }


def chosen_module(module: nn.Module) -> nn.Module:
    """The module that computes in place of one that is trained as a whole (`modules_to_save`); others are themselves."""
    peft = _peft()
    if peft is None or type(module) not in peft["saved"]:
        return module
    wrapper: Any = module
    active = wrapper.active_adapters
    if wrapper.disable_adapters or not active or any(name not in wrapper.modules_to_save for name in active):
        return wrapper.original_module
    return wrapper.modules_to_save[active[0]]


def _folded_layer(module: nn.Module) -> Any:
    """The LoRA layer that `module` is, or None."""
    peft = _peft()
    return module if peft is not None and type(module) in peft["folded"] else None


def plain_module(module: nn.Module) -> nn.Module:
    """The module that holds W: `module` without PEFT's wrappers."""
    module = chosen_module(module)
    layer = _folded_layer(module)
    return module if layer is None else layer.base_layer


def _adding(layer: Any) -> list[str]:
    """Adapters that the layer's product adds to that of W as it is now."""
    if layer.disable_adapters or layer.merged:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A or name in layer.lora_embedding_A]


def why_not_foldable(module: nn.Module) -> str | None:
    """What about the adapters of one module cannot be folded, to follow "its <name>"; None where all can be."""
    layer = _folded_layer(chosen_module(module))
    if layer is None:
        return None
    if layer.disable_adapters and layer.merged:
        return "has merged adapters that are switched off, which its next pass takes out of the weights"
    for name in _adding(layer):
        if name in layer.lora_variant:
            return f"has an adapter that no sum of weights equals ({type(layer.lora_variant[name]).__name__})"
        dropout = layer.lora_dropout[name]
        if dropout.training and not isinstance(dropout, nn.Identity):
            return "has an adapter whose dropout is in training mode"
    if layer.fan_in_fan_out:
        return "has adapters of transposed weights"
    return None


@torch.no_grad()
def folded_weights(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias with which `module` computes; the very parameters where no adapter adds to them."""
    plain: Any = plain_module(module)
    weight, bias = plain.weight, getattr(plain, "bias", None)
    layer = _folded_layer(chosen_module(module))
    if layer is None:
        return weight, bias
    for name in _adding(layer):
        # Rounded to the type of W after each adapter, as when they are merged one by one.
        delta = layer.get_delta_weight(name).to(weight.device)
        # PEFT rounds before the sum for embeddings, and after it for linear layers.
        weight = weight + delta.to(weight) if isinstance(plain, nn.Embedding) else (weight + delta).to(weight.dtype)
        if layer.lora_bias.get(name):
            added = layer.lora_B[name].bias * layer.scaling[name]
            bias = added.to(weight) if bias is None else bias + added.to(bias)
    return weight, bias


def adapter_state(model: nn.Module) -> list[tuple]:
    """What decides, beside tensors, what the adapters of a model compute: switched off, merged, active, and how strongly."""
    peft = _peft()
    if peft is None:
        return []
    return [
        (
            layer.disable_adapters,
            tuple(getattr(layer, "merged_adapters", ())),
            tuple(layer.active_adapters),
            repr(getattr(layer, "scaling", None)),
        )
        for layer in model.modules()
        if isinstance(layer, peft["all"])
    ]
