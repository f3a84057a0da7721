"""The static key-value cache: buffers that never move, so that a decoding step is one compiled graph."""

from transformers.cache_utils import Cache, StaticLayer

from .configuration_omni123 import Omni123Config


class Omni123StaticCache(Cache):
    """Room for `conditioning_length` + `num_positions` keys in dual-stream layers and `num_positions` in single-stream ones.

    transformers' `StaticCache` works as well, but gives every layer the longer buffer.
    """

    def __init__(self, config: Omni123Config, conditioning_length: int, num_positions: int):
        dual = [StaticLayer(conditioning_length + num_positions) for _ in range(config.num_dual_layers)]
        single = [StaticLayer(num_positions) for _ in range(config.num_single_layers)]
        super().__init__(layers=[*dual, *single])
