"""Which engine a pipeline generates its codes with."""

import pytest
import torch

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import generation_fast_omni123 as fast


def test_engines_agree_and_wrong_names_are_refused(tiny_pipeline):
    run = lambda: tiny_pipeline("a round table", output_type="tokens", seed=0, temperature=1.0, num_samples=2)  # noqa: E731
    try:
        automatic = run().shape_tokens
        tiny_pipeline.set_decoding("plain")
        assert torch.equal(run().shape_tokens, automatic)
        tiny_pipeline.set_decoding(weights="int8")
        assert run().shape_tokens.shape == automatic.shape
        with pytest.raises(Omni123Error, match="engine is 'quick'"):
            tiny_pipeline.set_decoding("quick")
        with pytest.raises(Omni123Error, match="weights is 'int4'"):
            tiny_pipeline.set_decoding(weights="int4")
        with pytest.raises(Omni123Error, match="belong to the fast engine"):
            tiny_pipeline.set_decoding("plain", "int8")
    finally:
        tiny_pipeline.set_decoding()


def test_a_released_decoder_is_made_anew(tiny_pipeline):
    run = lambda: tiny_pipeline("a round table", output_type="tokens", seed=0).shape_tokens  # noqa: E731
    first = run()
    assert tiny_pipeline.transformer in fast._decoders
    tiny_pipeline.release_decoder()
    assert tiny_pipeline.transformer not in fast._decoders
    assert torch.equal(run(), first)
