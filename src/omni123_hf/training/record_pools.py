"""Where the autoregressive stages read their records: pools of token shards, or a prepared data set with a token folder.

A recipe names pools under `data.pools` (`name: {shards: FOLDER_OR_HUB_ID, pool: pairs|shapes|images|edits}`). The short forms
`data.shards` and `data.root` + `data.tokens` make one pool called `pairs`.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.shards.format import Field, image_field
from ..data.store import AssetStore
from ..data.tokens import TokenStore, weights_hash
from ..errors import Omni123Error
from ..modeling.configuration_omni123 import Omni123Config


class RecordPool(Protocol):
    """What training needs of a pool; `data.shards.training_pool.TrainingPool` is one."""

    name: str

    def __len__(self) -> int: ...
    @property
    def fields(self) -> dict[str, Field]: ...
    @property
    def sources(self) -> np.ndarray: ...
    @property
    def tokenizers(self) -> dict[str, str]: ...
    @property
    def content_hash(self) -> str: ...
    def indices(self, split: str) -> np.ndarray: ...
    def codes(self, row: int, field: str) -> np.ndarray: ...
    def texts(self, row: int) -> dict[str, list[str]]: ...
    def view(self, row: int) -> str: ...


class StoreTokenPool:
    """A prepared data set and its token folder (`omni123 train tokenize`) as a pool; row i is asset i.

    `codes`: sizes of the two vocabularies, which a token folder does not hold.
    """

    name = "pairs"

    def __init__(self, store: AssetStore, tokens: TokenStore, codes: Mapping[str, int]):
        if tokens.info["data_hash"] != store.content_hash:
            raise Omni123Error("the tokens were made from another data set: run `omni123 train tokenize` again.")
        self.store, self.tokens, self.code_counts = store, tokens, dict(codes)

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def fields(self) -> dict[str, Field]:
        shape = Field("shape_tokens", "shape", self.tokens.shape_tokens.shape[1], self.code_counts["shape"])
        length = self.tokens.image_tokens.shape[2]
        images = [
            Field(image_field(view), "image", length, self.code_counts["image"]) for view in self.tokens.info["views"]
        ]
        return {part.name: part for part in (shape, *images)}

    @cached_property
    def sources(self) -> np.ndarray:
        return np.array([record.source for record in self.store.records], dtype=object)

    @property
    def tokenizers(self) -> dict[str, str]:
        return {name: self.tokens.info[name] for name in ("shape_tokenizer", "image_vae", "image_tokenizer")}

    @property
    def content_hash(self) -> str:
        return self.store.content_hash

    def indices(self, split: str) -> np.ndarray:
        rows = self.store.indices(split)
        if not len(rows):
            raise Omni123Error(f"the data set has no assets in split {split!r}: prepare more assets.")
        return rows

    def codes(self, row: int, field: str) -> np.ndarray:
        if field == "shape_tokens":
            return np.asarray(self.tokens.shape_tokens[row])
        view = self.tokens.info["views"].index(field.removeprefix(image_field("")))
        return np.asarray(self.tokens.image_tokens[row, view])

    def texts(self, row: int) -> dict[str, list[str]]:
        return self.store.records[row].captions

    def view(self, row: int) -> str:
        return ""


def check_data(data: Mapping[str, Any]) -> None:
    """Raises `Omni123Error` unless a `data` section names its pools in one of the three forms."""
    given = [form for form in ("pools", "shards", "tokens") if form in data]
    if len(given) != 1:
        raise Omni123Error(
            "the recipe's data section needs one of pools (name to shards and pool), shards (a folder of token shards), or "
            f"root and tokens; it has {', '.join(given) or 'none'}."
        )
    if "tokens" in data and "root" not in data:
        raise Omni123Error("the recipe's data section has tokens without root, the data set they were made from.")
    if "pools" in data and (not isinstance(data["pools"], Mapping) or not data["pools"]):
        raise Omni123Error("data.pools of the recipe is empty: name at least one pool.")


def check_entry(name: str, entry: Any) -> None:
    """Raises `Omni123Error` unless an entry of `data.pools` has the keys that one has."""
    if not isinstance(entry, Mapping) or set(entry) - {"shards", "pool", "revision"} or "shards" not in entry:
        raise Omni123Error(f"pool {name!r} must be a mapping of shards, pool (and revision of a Hub id): got {entry}.")


def open_pools(data: Mapping[str, Any], code_counts: Mapping[str, int]) -> dict[str, RecordPool]:
    """Opens every pool that a recipe's `data` section names. Raises `Omni123Error` for a missing, unknown or empty one."""
    check_data(data)
    if "tokens" in data:
        return {"pairs": StoreTokenPool(AssetStore.open(data["root"]), TokenStore.open(data["tokens"]), code_counts)}
    # Here, because it needs pyarrow and token folders do not.
    from ..data.shards.training_pool import TrainingPool

    if "shards" in data:
        return {"pairs": TrainingPool.open(data["shards"], "pairs")}
    pools: dict[str, RecordPool] = {}
    for name, entry in data["pools"].items():
        check_entry(name, entry)
        pools[name] = TrainingPool.open(entry["shards"], entry.get("pool", name), revision=entry.get("revision"))
    return pools


def check_pools(pools: Mapping[str, RecordPool], tokenizers: Mapping[str, Path], config: Omni123Config) -> None:
    """Raises `Omni123Error` when tokens were written by other tokenizers, or do not fit the model's lengths and vocabularies."""
    hashes = {name: weights_hash(folder) for name, folder in tokenizers.items()}
    wanted = {
        "shape": (config.num_shape_tokens, config.num_shape_codes),
        "image": (config.num_image_tokens, config.num_image_codes),
    }
    for name, pool in pools.items():
        for component, written_by in pool.tokenizers.items():
            if component not in hashes:
                raise Omni123Error(
                    f"the pool {name!r} was written by a {component}, and the recipe's data section names none: give "
                    f"{component}, a folder, or checkpoint."
                )
            if written_by != hashes[component]:
                raise Omni123Error(
                    f"the tokens of pool {name!r} were written by another {component} ({written_by[:12]}) than "
                    f"{tokenizers[component]} ({hashes[component][:12]}): tokenize again, or name the tokenizer that wrote "
                    "them."
                )
        for field in pool.fields.values():
            length, codes = wanted[field.kind]
            if field.length != length or field.codes > codes:
                raise Omni123Error(
                    f"{field.name} of pool {name!r} holds {field.length} codes of {field.codes}, the model reads {length} of "
                    f"{codes}: change num_{field.kind}_tokens and num_{field.kind}_codes of the recipe's model section, or "
                    "tokenize with other tokenizers."
                )
