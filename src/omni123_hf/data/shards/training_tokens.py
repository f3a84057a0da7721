"""Token shards for the training stages: the interface of `TokenStore`, row i for row i of the prepared data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from omni123_hf.data.shards.format import image_field
from omni123_hf.data.tokens import TokenStore
from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.data.shards.reader import Pool, TokenShards


class FieldRows:
    """Array-like read access to fields of a pool by row of the data set: `rows[i]`, and with several fields `rows[i, j]`."""

    def __init__(self, pool: Pool, fields: list[str], numbers: np.ndarray, stacked: bool):
        """numbers: (N,) record of each row. stacked: whether the fields form an axis of their own."""
        self.pool, self.fields, self.numbers, self.stacked = pool, fields, numbers, stacked
        length = next(part.length for part in pool.layout.fields if part.name == fields[0])
        self.shape = (len(numbers), len(fields), length) if stacked else (len(numbers), length)
        self.dtype = np.dtype(np.uint16)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, field = key if isinstance(key, tuple) else (key, None)
        numbers = self.numbers[rows]
        names = self.fields if field is None else [self.fields[field]]
        parts = [self.pool.rows(np.atleast_1d(numbers), name) for name in names]
        result = np.stack(parts, axis=1) if self.stacked and field is None else parts[0]
        return result[0] if np.ndim(numbers) == 0 else result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[np.arange(len(self))], dtype=dtype)


def token_store_of(shards: TokenShards) -> TokenStore:
    """The pool `pairs` as a `TokenStore`. Raises `Omni123Error` when the shards lack that pool or rows of the data set."""
    pool = shards["pairs"]
    rows = pool.column("source_row").to_numpy()
    numbers = np.full(len(rows), -1, dtype=np.int64)
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= len(rows):
        raise Omni123Error(
            f"{shards.folder} does not hold every row of its data set; tokenize the whole data set again"
        )
    numbers[rows] = np.arange(len(rows))
    views = pool.layout.views()
    shapes = FieldRows(pool, ["shape_tokens"], numbers, stacked=False)
    images = FieldRows(pool, [image_field(view) for view in views], numbers, stacked=True)
    info = {"data_hash": pool.info.origin.get("data_hash", ""), "views": views, **pool.info.origin["tokenizers"]}
    # The stages only index the arrays; reading the shards into real ones would need all of them in memory.
    return TokenStore(cast(np.ndarray, shapes), cast(np.ndarray, images), info)


def open_training_tokens(data: Mapping[str, Any]) -> TokenStore:
    """Tokens of a recipe's `data` section: `shards` (a folder or a Hub id of token shards), otherwise the folder `tokens`."""
    if "shards" in data:
        # Here, because the reader needs pyarrow and token folders do not.
        from omni123_hf.data.shards.reader import TokenShards

        return token_store_of(TokenShards.open(data["shards"]))
    return TokenStore.open(data["tokens"])
