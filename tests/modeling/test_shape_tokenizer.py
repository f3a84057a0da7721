"""The shape tokenizer: its doors agree, precision is handled, checkpointed gradients are the same, its start is Cube 3D's."""

import pytest
import torch
import torch.nn.functional as F
from tiny_shape import checkpoint_activations, make_inputs, make_model, make_points

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ShapeTokenizer
from omni123_hf.modeling.quantization import nearest_codes


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


def test_encoding_to_ids_keeps_no_graph():
    model = make_model()
    kept = []
    model.encoder.final_norm.register_forward_hook(lambda module, inputs, output: kept.append(output.requires_grad))
    model.encode(*make_points())
    model.encode_latents(*make_points())
    assert kept == [False, True]


def test_nearest_codes_do_not_depend_on_the_chunk():
    codes = F.normalize(torch.randn(16, 4), dim=-1)
    assert nearest_codes(codes + 0.01 * torch.randn(16, 4), codes, chunk=5).tolist() == list(range(16))


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


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            checkpoint_activations(model, reentrant)
        recomputed = []
        for layer in (*model.encoder.layers, *model.decoder.layers, model.occupancy_head.attention):
            layer.mlp.register_forward_pre_hook(lambda module, args, seen=recomputed: seen.append(module))
        torch.manual_seed(0)
        model(**make_inputs()).loss.backward()
        assert len(recomputed) == (2 if checkpointing else 1) * len(set(recomputed)) and len(set(recomputed)) == 6
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@torch.no_grad()
def test_learned_queries_start_in_order_of_their_distance_to_the_class_token():
    query = make_model(num_latents=50).encoder.query
    distances = (query - query[0]).norm(dim=-1)
    assert distances[0] == 0 and (distances.diff() > 0).all()
    assert query.abs().max() <= 1 and query.std() == pytest.approx(3**-0.5, rel=0.05)


def test_sizes_that_form_no_model_are_refused():
    for changes, message in (
        ({"encoder_cross_attention_layers": [1]}, "must contain 0"),
        ({"encoder_cross_attention_layers": [0, 3]}, "beyond num_encoder_layers 3"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"num_decoder_layers": 0}, "at least 1"),
        ({"num_normal_features": 4}, "3 components"),
        ({"encoder_cross_attention_layers": [0, -1]}, "negative layer"),
        ({"encoder_cross_attention_layers": []}, "must contain 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": -2}, "num_attention_heads is -2"),
        ({"hidden_size": -32}, "hidden_size is -32"),
        ({"num_codes": 0}, "num_codes is 0"),
        ({"num_latents": -8}, "num_latents is -8"),
        ({"code_dim": 0}, "code_dim is 0"),
        ({"num_frequencies": 0}, "num_frequencies is 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
        ({"mlp_ratio": 0.01}, "without a channel"),
        ({"code_scale_init": 0.0}, "code_scale_init is 0.0"),
        ({"vq_assignment": "random"}, "vq_assignment"),
    ):
        with pytest.raises(Omni123Error, match=message):
            make_model(**changes)
