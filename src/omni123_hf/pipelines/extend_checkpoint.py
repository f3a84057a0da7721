"""A checkpoint with the backbone and text encoders of a later training stage: its tokenizers stay, its history is kept.

What was trained before stands on in `logs/`, `recipes/` and `data_lineage.json`; the later stage is added under its own name.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ..data.shards.training_pool import TrainingPool
from ..data.tokens import weights_hash
from ..errors import Omni123Error
from ..modeling.configuration_omni123 import Omni123Config
from .registry import checkpoint_revision, provenance, resolve_checkpoint, write_provenance


RUN_FILES = ("recipe.json", "run.json", "log.jsonl")
TRAINED_PARTS = ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def extend_checkpoint(
    checkpoint: str | Path,
    run: str | Path,
    out: str | Path,
    name: str,
    trained_on: str = "",
    edit_guidance_scale: float | None = None,
    edit_source_bias: float | None = None,
) -> Path:
    """Builds `out`: the parts that `run` trained, everything else of `checkpoint`.

    run: output folder of a finished autoregressive stage, whose `data.pools` are token shards that are still there. name: of
    the stage, for its log and recipe (`omni123_NAME`). edit_guidance_scale, edit_source_bias: how the new checkpoint edits unless
    told otherwise; None leaves what the stage's own configuration says. `out` may be the checkpoint itself; it is replaced only when the new
    folder is complete. Raises `Omni123Error` for a run that is not finished, for one of other tokenizers, and for pools that
    are gone.
    """
    folder, run, out = resolve_checkpoint(checkpoint), Path(run), Path(out)
    if folder is None:
        raise Omni123Error(f"{str(checkpoint)!r} is no checkpoint on this machine: give a bundled name or a folder")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise Omni123Error(f"{name!r} is no name of a stage: use small letters, digits and underscores")
    missing = [file for file in (*RUN_FILES, "final") if not (run / file).exists()]
    if missing:
        raise Omni123Error(f"{run} lacks {', '.join(missing)}: give the output folder of a stage that ran to its end")
    description = json.loads((run / "run.json").read_text(encoding="utf-8"))["run"]
    check_tokenizers(folder, run, description["data"].get("tokenizers", {}))
    data = json.loads((run / "recipe.json").read_text(encoding="utf-8"))["data"]
    pools = pool_lineage(data, description["data"].get("pools", {}))

    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(folder, temporary)
    for part in TRAINED_PARTS:
        if (run / "final" / part).is_dir():
            shutil.rmtree(temporary / part, ignore_errors=True)
            shutil.copytree(run / "final" / part, temporary / part)
    set_editing(temporary / "transformer", edit_guidance_scale, edit_source_bias)
    for sub, source, suffix in (("logs", "log.jsonl", "jsonl"), ("recipes", "recipe.json", "json")):
        (temporary / sub).mkdir(exist_ok=True)
        shutil.copyfile(run / source, temporary / sub / f"omni123_{name}.{suffix}")
    lineage_file = temporary / "data_lineage.json"
    lineage = json.loads(lineage_file.read_text(encoding="utf-8")) if lineage_file.is_file() else {}
    lineage.setdefault("later_stages", {})[name] = pools
    lineage_file.write_text(json.dumps(lineage, indent=1) + "\n", encoding="utf-8")
    facts = {key: value for key, value in provenance(folder).items() if key not in ("files", "revision")}
    facts.setdefault("later_stages", {})[name] = {
        "began_from": checkpoint_revision(folder),
        "pools": {pool: entry["content_hash"] for pool, entry in pools.items()},
        "trained_on": trained_on,
    }
    write_provenance(temporary, **facts)
    if out.exists():
        shutil.rmtree(out)
    temporary.replace(out)
    return out


def set_editing(transformer: Path, guidance_scale: float | None, source_bias: float | None) -> None:
    """Writes the values that are given into a backbone's configuration; raises `Omni123Error` for ones that it refuses."""
    given = {"edit_guidance_scale": guidance_scale, "edit_source_bias": source_bias}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return
    file = transformer / "config.json"
    fields = json.loads(file.read_text(encoding="utf-8")) | given
    Omni123Config(**fields)
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_tokenizers(folder: Path, run: Path, trained_with: dict[str, str]) -> None:
    """Raises `Omni123Error` unless a run's tokens were written by the checkpoint's own tokenizers."""
    for component, written_by in trained_with.items():
        own = weights_hash(folder / component) if (folder / component).is_dir() else "none"
        if own != written_by:
            raise Omni123Error(
                f"{run} was trained on tokens of another {component} ({written_by[:12]}) than {folder.name}'s ({own[:12]})"
            )


def pool_lineage(data: dict[str, Any], used: dict[str, str]) -> dict[str, Any]:
    """Content hash, records by source and licence, and licence warnings of each pool of a recipe's data section."""
    found: dict[str, Any] = {}
    for name, entry in data.get("pools", {}).items():
        pool = TrainingPool.open(entry["shards"], entry.get("pool", name))
        if used.get(name) not in (None, pool.content_hash):
            raise Omni123Error(
                f"{entry['shards']} does not hold the pool {name!r} that the run was trained on any more"
            )
        info = pool.pool.info
        found[name] = {
            "content_hash": pool.content_hash,
            "records": dict(info.splits),
            "sources": [dict(source) for source in info.sources],
            "licence_warnings": list(info.origin.get("licence_warnings", [])),
        }
    if not found:
        raise Omni123Error("the run's recipe names no pools of token shards (data.pools): its lineage cannot be told")
    return found
