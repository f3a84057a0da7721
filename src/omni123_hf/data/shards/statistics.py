"""How much of its vocabulary a pool uses: a share near zero means a collapsed tokenizer."""

import numpy as np

from omni123_hf.data.shards.reader import Pool


def code_use(pool: Pool) -> dict[str, float]:
    """Field to the share of its codes that stand in the pool at least once."""
    seen = {part.name: np.zeros(part.codes, dtype=bool) for part in pool.layout.fields}
    for shard in range(len(pool.info.shards)):
        tokens = pool.tokens(shard)
        for name, used in seen.items():
            used[tokens[:, pool.layout.place(name)].reshape(-1)] = True
    return {name: float(used.mean()) for name, used in seen.items()}
