"""Surface samples of the two sides of an editing pair that agree where the shapes do.

Points are drawn for each shape alone, and a shape tokenizer answers to the draw: of a small one a fifth of the codes change when
the same surface is sampled anew. An edit would then have to foretell that noise all over the object. Here the wanted side takes
the given side's own points wherever nothing changed, and only the change is new.
"""

import numpy as np

from .regions import EditRegion


def couple_surface(given: np.ndarray, wanted: np.ndarray, region: EditRegion | None) -> np.ndarray:
    """`wanted` (P, 6) with its points outside the changed region replaced by those of `given` (P', 6), points and unit normals in
    the pair's frame.

    Outside the boxes of an exact region both surfaces are the same, so any point of the one lies on the other. How many points
    stand outside stays what it was: the sample remains uniform by area. Where `given` has too few, the rest of `wanted` stays. A
    region that is unknown, or was only measured on a grid, says too little about its outside: then `wanted` stays as it is.
    """
    if region is None or not region.exact:
        return wanted
    shared = given[~region.contains(given[:, :3].astype(np.float32))]
    places = np.flatnonzero(~region.contains(wanted[:, :3].astype(np.float32)))
    count = min(len(shared), len(places))
    coupled = wanted.copy()
    # Points of a sample are in random order, so the first ones are as good as any.
    coupled[places[:count]] = shared[:count]
    return coupled
