"""A domain that omni123-mini has never seen, learned by an adapter: held-out loss and Chamfer, and what the old domain lost.

python benchmarks/lora.py --work runs/lora --out benchmarks/results/lora.json

Writes 50 meshes (gears, stars, block letters, spirals, stairs), runs `omni123 train lora --config recipes/lora.yaml` on them,
and keeps its figures. A stopped run goes on.
"""

import argparse
import json
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from lora_domain import write_domain  # noqa: E402

from omni123_hf.cli.train_lora import lora_recipe, run_lora  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/lora"))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--resolution", type=int, default=48)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    meshes = arguments.work / "meshes"
    if not meshes.is_dir():
        write_domain(meshes, arguments.count)
    given = {"data": {"meshes": f"emblems={meshes}"}, "model": {}, "options": {}, "training": {}}
    recipe = lora_recipe(ROOT / "recipes" / "lora.yaml", None, arguments.work / "adapter", None, given)
    result = run_lora(recipe, preflight_only=False, licence=None, resolution=arguments.resolution)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


# Preparation starts worker processes, which import this file.
if __name__ == "__main__":
    main()
