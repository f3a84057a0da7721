"""Assets as the work of a run: what a shard of a data set holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omni123_hf.data.assets import Asset, asset_place
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.data.prepare_asset import Captioner, PreparedAsset, is_repaired, prepare_asset
from omni123_hf.data.prepare_shard import Row


@dataclass(frozen=True)
class AssetWork:
    """`prepare_asset` with its settings; see `prepare_shard.Work`."""

    config: PreparationConfig
    captioner: Captioner | None = None
    lines = ("records", "seconds")

    @property
    def layout(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """The arrays of the store."""
        return {name: self.config.sizes.array(name) for name in self.config.sizes.names}

    def place(self, item: Asset) -> tuple[str, str]:
        """Source, and path in it."""
        return item.source, asset_place(item)[0]

    def prepare(self, item: Asset) -> Row:
        """The asset as a row."""
        return asset_row(prepare_asset(item, self.config, captioner=self.captioner))


def asset_row(prepared: PreparedAsset) -> Row:
    """A prepared asset as a row of a shard."""
    record = prepared.record
    lines = {"records": record.to_dict(), "seconds": {"id": record.id, **prepared.seconds}}
    return Row("repaired" if is_repaired(record) else "kept", prepared.arrays, lines)
