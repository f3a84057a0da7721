"""The image quantiser: nearest codes, the life of the code book, and memory that does not grow with its size."""

import resource

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omni123_hf.modeling.quantization_image import (
    MAX_COSINES,
    CosineVectorQuantizer,
    code_statistics,
    entropy_loss,
    nearest_codes,
    spherical_kmeans,
)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation makes, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(x.numel() for x in tree_leaves(out) if torch.is_tensor(x))])
        return out


def plain_entropy_loss(tokens: torch.Tensor, codes: torch.Tensor, temperature: float) -> torch.Tensor:
    log_shares = (2 * tokens @ codes.t() / temperature).log_softmax(-1)
    shares = log_shares.exp()
    mean = shares.mean(0)
    return -(shares * log_shares).sum(-1).mean() + (mean * mean.clamp_min(1e-10).log()).sum()


def unit(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_nearest_code_does_not_depend_on_length_or_chunk():
    quantizer = CosineVectorQuantizer(16, 4, max_cosines=48)
    torch.nn.init.normal_(quantizer.codebook)
    tokens = torch.randn(5, 7, 4)
    expected = F.cosine_similarity(tokens[..., None, :], quantizer.codebook, dim=-1).argmax(-1)
    assert torch.equal(quantizer.encode(tokens), expected)
    assert torch.equal(quantizer.encode(tokens * 37), expected)
    torch.testing.assert_close(quantizer.decode(expected).norm(dim=-1), torch.ones(5, 7))


def test_gradients_pass_straight_through_and_reach_the_codes():
    quantizer = CosineVectorQuantizer(16, 4, restart_after=0).train()
    torch.nn.init.normal_(quantizer.codebook)
    quantizer.started.fill_(True)
    tokens = F.normalize(torch.randn(8, 4), dim=-1).requires_grad_()
    output = quantizer(tokens)
    direction = torch.randn(8, 4)
    (through,) = torch.autograd.grad((output.quantized * direction).sum(), tokens, retain_graph=True)
    (direct,) = torch.autograd.grad((F.normalize(tokens, dim=-1) * direction).sum(), tokens)
    torch.testing.assert_close(through, direct)
    output.loss.backward()
    used = torch.bincount(output.indices, minlength=16) > 0
    assert (quantizer.codebook.grad[used].abs().sum(-1) > 0).all()


def test_warm_up_then_start_from_data():
    quantizer = CosineVectorQuantizer(8, 4, warmup_steps=3).train()
    torch.nn.init.zeros_(quantizer.codebook)
    centres = F.normalize(torch.randn(8, 4), dim=-1)
    batch = centres.repeat(16, 1) + 0.01 * torch.randn(128, 4)
    for _ in range(2):
        output = quantizer(batch)
        assert output.indices is None
        torch.testing.assert_close(output.quantized, F.normalize(batch, dim=-1))
    output = quantizer(batch)
    assert output.indices is not None and bool(quantizer.started)
    assert (output.quantized - F.normalize(batch, dim=-1)).norm(dim=-1).median() < 0.1


def test_idle_codes_move_to_the_data_and_deterministically():
    def run() -> torch.Tensor:
        torch.manual_seed(5)
        quantizer = CosineVectorQuantizer(16, 4, restart_after=4).train()
        quantizer.started.fill_(True)
        data = F.normalize(torch.randn(64, 4).abs(), dim=-1)
        with torch.no_grad():
            quantizer.codebook.copy_(-data[:16])
            quantizer.codebook[0] = data[0]
        before = code_statistics(quantizer.encode(data), 16)["code_usage"]
        for _ in range(12):
            quantizer(data)
        after = code_statistics(quantizer.encode(data), 16)["code_usage"]
        assert before < 0.2 and after > 0.7
        return quantizer.codebook.detach().clone()

    assert torch.equal(run(), run())


def test_entropy_prefers_a_spread_assignment():
    codes = torch.eye(8)
    spread, collapsed = torch.eye(8), torch.eye(8)[:1].repeat(8, 1)
    assert entropy_loss(spread, codes, 0.01) < entropy_loss(collapsed, codes, 0.01) - 1.5


def test_kmeans_finds_separated_centres_and_copes_with_too_few_points():
    centres = torch.eye(6)
    points = F.normalize(centres.repeat(20, 1) + 0.02 * torch.randn(120, 6), dim=-1)
    found = spherical_kmeans(points, 24, 5, torch.Generator().manual_seed(0))
    assert ((found @ centres.t()).max(0).values > 0.99).all()
    few = spherical_kmeans(points[:3], 24, 2)
    torch.testing.assert_close(few.norm(dim=-1), torch.ones(24))


def test_code_statistics():
    figures = code_statistics(torch.tensor([[0, 1], [2, 3]]), 8)
    assert figures["code_usage"] == 0.5
    assert figures["perplexity"] == pytest.approx(4.0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_entropy_in_blocks_equals_the_plain_form_with_its_gradients(dtype, tolerance):
    tokens, codes = unit(300, 8, dtype=dtype).requires_grad_(), unit(100, 8, dtype=dtype).requires_grad_()
    plain = plain_entropy_loss(tokens, codes, 0.1)
    blocks = entropy_loss(tokens, codes, 0.1, max_cosines=700)
    torch.testing.assert_close(blocks, plain, atol=tolerance, rtol=tolerance)
    wanted, found = (torch.autograd.grad(loss, (tokens, codes)) for loss in (plain, blocks))
    for a, b in zip(found, wanted, strict=True):
        assert b.abs().max() > 1e-4
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def test_no_tensor_exceeds_the_bound_whatever_the_number_of_codes():
    bound, codes = 2**12, unit(512, 4)
    tokens = unit(1000, 4)
    with LargestTensor() as seen:
        plain_entropy_loss(tokens, codes, 0.01)
    assert seen.elements == 512 * 1000, "the recorder sees the cosines of the plain form"

    with LargestTensor() as seen:
        chosen = nearest_codes(tokens, codes, bound)
        spherical_kmeans(tokens, 512, 3, max_cosines=bound)
    assert seen.elements <= bound
    assert torch.equal(chosen, (tokens @ codes.t()).argmax(-1))

    quantizer = CosineVectorQuantizer(512, 4, entropy_tokens=900, restart_after=1, max_cosines=bound).train()
    torch.nn.init.normal_(quantizer.codebook)
    with LargestTensor() as seen:
        for _ in range(2):
            output = quantizer(tokens.requires_grad_())
            output.loss.backward()
        quantizer.encode(tokens.detach())
    assert 0 < seen.elements <= bound
    assert quantizer.codebook.grad.abs().sum() > 0


def test_kmeans_does_not_depend_on_the_bound():
    points = unit(400, 6)
    found = [
        spherical_kmeans(points, 50, 4, torch.Generator().manual_seed(1), max_cosines=bound) for bound in (130, 10**6)
    ]
    torch.testing.assert_close(found[0], found[1])


def test_autocast_does_not_change_the_nearest_code():
    tokens, codes = unit(2000, 16), unit(256, 16)
    plain = nearest_codes(tokens, codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal((tokens @ codes.t()).argmax(-1), plain), "bfloat16 cosines do differ"
        assert torch.equal(nearest_codes(tokens, codes), plain)


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.bfloat16()])
def test_casting_a_whole_model_leaves_the_codes_as_they_are(cast):
    quantizer = CosineVectorQuantizer(64, 8)
    torch.nn.init.normal_(quantizer.codebook)
    before, tokens = quantizer.codebook.detach().clone(), torch.randn(100, 8)
    indices = quantizer.encode(tokens)
    model = cast(torch.nn.Sequential(torch.nn.Linear(2, 2), quantizer))
    assert model[0].weight.dtype != torch.float32
    assert torch.equal(quantizer.codebook, before) and torch.equal(quantizer.encode(tokens), indices)


@pytest.mark.slow
def test_the_papers_code_book_trains_within_bounded_memory():
    # 65,536 codes of 64 and the 1,024 tokens of one 512² image. The blocks are 128 MB in float32, of which backward
    # holds about five; the plain form would make tensors of 256 MB (1 GB with 4,096 tokens), about six at a time.
    quantizer = CosineVectorQuantizer(65536, 64).train()
    torch.nn.init.normal_(quantizer.codebook)
    quantizer.started.fill_(True)
    tokens = torch.randn(1, 1024, 64, requires_grad=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with LargestTensor() as seen:
        output = quantizer(tokens)
        (output.loss + output.quantized.sum()).backward()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert seen.elements <= MAX_COSINES
    assert grown < 1.0e9, f"peak memory grew by {grown / 1e9:.2f} GB"
    assert output.indices.shape == (1, 1024) and tokens.grad.isfinite().all() and tokens.grad.abs().sum() > 0
    assert quantizer.codebook.grad.isfinite().all() and quantizer.codebook.grad.abs().sum() > 0
