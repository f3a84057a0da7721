"""What `save_pretrained` refuses."""

from transformers import PreTrainedModel

from ..errors import Omni123Error


def refuse_torchao_saving(model: PreTrainedModel) -> None:
    """torchao writes tensors that stand at a model's root (no dot in their name), but cannot read them back."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and quantizer.quantization_config.quant_method == "torchao":
        raise Omni123Error(
            "Weights quantised by torchao cannot be saved for this model: save the float weights and quantise at load."
        )
