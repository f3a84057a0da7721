import numpy as np
import pytest

from omni123_hf.data.shards.order import ShuffledOrder
from omni123_hf.errors import Omni123Error


@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000, 4096, 4097])
def test_every_epoch_visits_every_record_once_in_another_order(count):
    order = ShuffledOrder(count, seed=3)
    epochs = order(np.arange(3 * count)).reshape(3, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()
    if count > 100:
        assert (
            not (epochs[0] == epochs[1]).all() and not (epochs[0] == ShuffledOrder(count, 4)(np.arange(count))).all()
        )


def test_neighbours_are_spread_and_no_place_is_preferred():
    count = 5000
    order = ShuffledOrder(count, seed=0)
    first = order(np.arange(count))
    # A random permutation has a mean step of a third of the range, and no correlation with the identity.
    assert abs(np.abs(np.diff(first)).mean() / count - 1 / 3) < 0.02
    assert abs(np.corrcoef(first, np.arange(count))[0, 1]) < 0.05
    starts = order(np.arange(400) * count)
    assert abs(starts.mean() / count - 0.5) < 0.05 and len(np.unique(starts)) > 350


def test_any_place_is_reached_without_the_places_before_it():
    order = ShuffledOrder(100_000_000, seed=1)
    far = np.array([0, 99_999_999, 10**12, 10**15])
    assert np.array_equal(order(far), np.concatenate([order(far[i : i + 1]) for i in range(4)]))
    assert order(np.zeros(0, dtype=np.int64)).shape == (0,)
    with pytest.raises(Omni123Error, match="no records"):
        ShuffledOrder(0, 0)
