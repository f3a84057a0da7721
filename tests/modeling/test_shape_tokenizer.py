"""The shape tokenizer: its doors agree, its quantiser is exact, precision and bad input are handled."""

import pytest
import torch
import torch.nn.functional as F

from omni123_hf.modeling import Omni123ShapeTokenizer, Omni123ShapeTokenizerConfig
from omni123_hf.modeling.quantization import nearest_codes, sinkhorn_assignment


def make_model(**changes) -> Omni123ShapeTokenizer:
    torch.manual_seed(0)
    sizes = dict(
        num_latents=8, num_codes=32, code_dim=4, hidden_size=32, num_attention_heads=2, num_encoder_layers=3,
        encoder_cross_attention_layers=[0, 2], num_decoder_layers=1, num_frequencies=4,
    )  # fmt: skip
    return Omni123ShapeTokenizer(Omni123ShapeTokenizerConfig(**{**sizes, **changes})).eval()


def make_points(batch: int = 2, count: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    normals = F.normalize(torch.randn(batch, count, 3, generator=g), dim=-1)
    return torch.rand(batch, count, 3, generator=g) - 0.5, normals


@torch.no_grad()
def test_eval_forward_equals_encode_decode_query():
    model = make_model()
    points, normals = make_points()
    queries = torch.rand(2, 16, 3) - 0.5
    output = model(points, normals, queries)
    tokens = model.encode(points, normals)
    assert torch.equal(output.indices, tokens) and tokens.shape == (2, 8)
    latents = model.decode_latents(tokens)
    torch.testing.assert_close(model.query(latents, queries), output.logits, atol=1e-5, rtol=1e-5)
    in_parts = [model.query(model.project_latents(latents), part) for part in queries.split(5, dim=1)]
    torch.testing.assert_close(torch.cat(in_parts, dim=1), output.logits, atol=1e-5, rtol=1e-5)


def test_assignments_are_nearest_in_inference_and_balanced_in_transport():
    codes = F.normalize(torch.randn(16, 4), dim=-1)
    assert nearest_codes(codes + 0.01 * torch.randn(16, 4), codes, chunk=5).tolist() == list(range(16))
    # All samples in one corner: the nearest code takes nearly all of them, transport spreads them.
    crowd = codes[:1] + 0.05 * torch.randn(256, 4)
    spread = sinkhorn_assignment(crowd, codes, iterations=5, temperature=0.1)
    assert len(spread.unique()) > 2 * len(nearest_codes(crowd, codes).unique())


def test_codes_are_assigned_in_float32_under_autocast():
    g = torch.Generator().manual_seed(0)
    z, codes = (torch.randn(n, 16, generator=g) for n in (512, 512))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        indices = nearest_codes(z, codes)
    assert torch.equal(indices, nearest_codes(z, codes))


@torch.no_grad()
def test_a_half_precision_model_encodes_decodes_and_answers(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = Omni123ShapeTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.quantizer.codebook.weight.dtype == torch.float32
    assert model.decoder.position_embedding.dtype == torch.bfloat16
    tokens = model.encode(*make_points())
    logits = model.query(model.decode_latents(tokens), torch.zeros(2, 3, 3))
    assert logits.dtype == torch.float32 and torch.isfinite(logits).all()
    assert model.train()(*make_points(), torch.zeros(2, 3, 3), torch.ones(2, 3)).loss.isfinite()


def test_bad_input_is_named():
    model = make_model()
    points, normals = make_points()
    with pytest.raises(ValueError, match="must both be"):
        model.encode(points, normals[:, :3])
    with pytest.raises(ValueError, match="NaN or infinity"):
        model.encode(points / 0.0, normals)
    with pytest.raises(ValueError, match="outside the box"):
        model.encode(points * 10, normals)
    with pytest.raises(ValueError, match=r"\[0, 32\)"):
        model.decode_latents(torch.full((1, 8), 32))
    # One token would broadcast over all positions without a word.
    with pytest.raises(ValueError, match=r"give \(B, 8\)"):
        model.decode_latents(torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="must contain 0"):
        make_model(encoder_cross_attention_layers=[1])
