"""Parameters of the four models by part, at the paper's scale or the mini's, counted on the meta device.

    python benchmarks/parameters.py --out benchmarks/results/parameters_paper.json

Nothing is allocated, so it runs anywhere. Code tables of the backbone are buffers and not counted.
"""

import argparse
import json
from pathlib import Path

import torch

from omni123_hf.modeling import (
    Omni123Config,
    Omni123ForConditionalGeneration,
    Omni123ImageTokenizer,
    Omni123ImageTokenizerConfig,
    Omni123ImageVAE,
    Omni123ImageVAEConfig,
    Omni123ShapeTokenizer,
    Omni123ShapeTokenizerConfig,
)
from omni123_hf.modeling.parameter_tables import (
    image_tokenizer_parameter_table,
    image_vae_parameter_table,
    parameter_table,
    shape_tokenizer_parameter_table,
)


MODELS = {
    "backbone": (Omni123ForConditionalGeneration, Omni123Config, parameter_table),
    "shape tokenizer": (Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig, shape_tokenizer_parameter_table),
    "image VAE": (Omni123ImageVAE, Omni123ImageVAEConfig, image_vae_parameter_table),
    "image tokenizer": (Omni123ImageTokenizer, Omni123ImageTokenizerConfig, image_tokenizer_parameter_table),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("paper", "mini"), default="paper")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = {}
    for name, (model_class, config_class, table) in MODELS.items():
        with torch.device("meta"):
            result[name] = table(model_class(getattr(config_class, options.size)()))
        print(f"{name}")
        for part, count in result[name].items():
            print(f"  {part:32s}{count:>15,d}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"size": options.size, "parameters": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
