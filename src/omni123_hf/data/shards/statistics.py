"""How much of its vocabulary a pool uses: a share near zero means a collapsed tokenizer."""

import numpy as np

from omni123_hf.data.shards.reader import Pool
from omni123_hf.errors import Omni123Error


def code_use(pool: Pool) -> dict[str, float]:
    """Field to the share of its codes that stand in the pool at least once."""
    seen = {part.name: np.zeros(part.codes, dtype=bool) for part in pool.layout.fields}
    for shard in range(len(pool.info.shards)):
        tokens = pool.tokens(shard)
        for name, used in seen.items():
            codes = tokens[:, pool.layout.place(name)].reshape(-1)
            if codes.max() >= len(used):
                raise Omni123Error(
                    f"the pool {pool.name} holds the code {codes.max()} in {name}, outside [0, {len(used)}); copy or write "
                    "the shards again"
                )
            used[codes] = True
    return {name: float(used.mean()) for name, used in seen.items()}
