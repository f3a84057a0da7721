"""The pools of a recipe as far as they are here; what is not stands for itself with the form that its kind of pool has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.shards.format import Field, PoolLayout, image_field
from ..errors import Omni123Error
from ..geometry.cameras import ALL_VIEWS
from ..modeling.configuration_omni123 import Omni123Config
from .plan import Findings
from .record_pools import RecordPool, check_data, check_entry, open_pools


class PlannedPool:
    """A pool that is not here: fields as `omni123 data tokenize` writes them for this model with all views, one record."""

    tokenizers: dict[str, str] = {}
    content_hash = ""

    def __init__(self, kind: str, config: Omni123Config):
        self.name = kind
        shape = ("shape", config.num_shape_tokens, config.num_shape_codes)
        image = ("image", config.num_image_tokens, max(config.num_image_codes, 1))
        fields = {
            "shapes": {"shape_tokens": shape},
            "images": {"image_tokens": image},
            "pairs": {"shape_tokens": shape, **{image_field(view): image for view in ALL_VIEWS}},
            "edits": {"source_tokens": shape, "target_tokens": shape},
        }
        # Refuses an unknown kind.
        layout = PoolLayout(kind, tuple(Field(name, *sizes) for name, sizes in fields.get(kind, {}).items()))
        self.fields = {part.name: part for part in layout.fields}

    def __len__(self) -> int:
        return 1

    @property
    def sources(self) -> np.ndarray:
        return np.array(["planned"], dtype=object)

    def indices(self, split: str) -> np.ndarray:
        return np.zeros(1, dtype=np.int64)

    def codes(self, row: int, field: str) -> np.ndarray:
        return np.zeros(self.fields[field].length, dtype=np.uint16)

    def texts(self, row: int) -> dict[str, list[str]]:
        return {}

    def view(self, row: int) -> str:
        return ""


def planned_pools(
    data: Mapping[str, Any], code_counts: Mapping[str, int], config: Omni123Config, findings: Findings
) -> dict[str, RecordPool]:
    """The pools of a recipe's `data` section, opened where they are here. Raises `Omni123Error` for a section of no form."""
    check_data(data)
    if "pools" not in data:
        folders = [Path(data[key]) for key in ("shards", "root", "tokens") if key in data]
        absent = [folder for folder in folders if not folder.is_dir()]
        if absent:
            findings.missing += [f"{folder} (data)" for folder in absent]
            return {"pairs": PlannedPool("pairs", config)}
        return findings.attempt(open_pools, data, code_counts) or {"pairs": PlannedPool("pairs", config)}
    pools: dict[str, RecordPool] = {}
    for name, entry in data["pools"].items():
        check_entry(name, entry)
        opened = None
        if Path(entry["shards"]).is_dir():
            opened = findings.attempt(open_pools, {"pools": {name: entry}}, code_counts)
        else:
            findings.missing.append(f"{entry['shards']} (pool {name})")
        pools[name] = opened[name] if opened else PlannedPool(entry.get("pool", name), config)
    return pools


def check_sizes_known(options: Mapping[str, Any], pools: Mapping[str, RecordPool]) -> None:
    """Raises `Omni123Error` where Eq. 2 would need the size of a pool that is not here."""
    lines = options.get("mixture")
    if not isinstance(lines, Mapping) or len(lines) < 2:
        return
    for name, line in lines.items():
        pool = line.get("pool", name) if isinstance(line, Mapping) else None
        if isinstance(pools.get(str(pool)), PlannedPool) and not {"probability", "size"} & set(line):
            raise Omni123Error(
                f"subset {name!r} has neither probability nor size, and its pool is not here to be counted: a plan needs one."
            )
