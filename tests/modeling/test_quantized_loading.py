"""Weights in 8 and 4 bits at load: torchao int8 (weight only), bitsandbytes int8 and NF4, on the CPU.

What each of them does to a result is in `docs/quantization.md`; the bounds below are about twice what that page says.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from common_contract import run
from test_common_shape_tokenizer import TestOmni123ShapeTokenizer as ShapeContract
from tiny_omni123 import make_model
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig

from omni123_hf.modeling import (
    Omni123ForConditionalGeneration,
    Omni123ImageTokenizer,
    Omni123ShapeTokenizer,
    build_sequence,
    generation_plan,
    get_task,
)


MINI = Path(__file__).parents[2] / "checkpoints" / "omni123-mini"
METHODS = ["torchao int8", "bitsandbytes int8", "bitsandbytes nf4"]
# The heads decide between codes, and the code projections are tiny: neither is worth the error.
SPARED = ["shape_head", "image_head", "shape_code_proj", "image_code_proj"]
# Relative error of the logits (L2) and share of equal most likely codes, on the shipped weights. int8 rounds a row to
# 255 steps of its largest weight, about 0.5 % of a typical weight; bitsandbytes rounds the activations too; NF4 has 16
# levels per block of 64 weights, about 9 %.
BOUNDS = {"torchao int8": (0.02, 0.97), "bitsandbytes int8": (0.04, 0.94), "bitsandbytes nf4": (0.2, 0.8)}

# Sizes in multiples of 64: bitsandbytes' 4-bit CPU kernel takes no others.
SIZES: dict[str, Any] = dict(
    hidden_size=64, num_shape_codes=64, num_image_codes=64, text_embed_dim=64, text_embed_dim_2=64
)


def quantization(method: str, spared: list[str] | None = None) -> Any:
    """The quantisation config of a method; `spared` are modules that keep their weights."""
    if method == "torchao int8":
        pytest.importorskip("torchao", reason="torchao is an optional package: pip install torchao")
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=spared)
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is an optional package: pip install bitsandbytes")
    if method == "bitsandbytes int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=spared)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=spared,
    )


def quantized_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if type(parameter) is not nn.Parameter}


def linear_names(model: nn.Module, spared: list[str]) -> set[str]:
    names = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name for name in names if not name.startswith(tuple(spared))}


def bytes_of(model: nn.Module) -> int:
    """Bytes of all weights; a torchao tensor counts its parts (`get_memory_footprint` takes it for a float one)."""
    total = 0
    for tensor in [*model.parameters(), *model.buffers()]:
        parts, _ = tensor.__tensor_flatten__() if hasattr(tensor, "__tensor_flatten__") else ([], None)
        total += sum(getattr(tensor, part).nbytes for part in parts) if parts else tensor.nbytes
    return total


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    make_model(**SIZES).save_pretrained(folder)
    return folder


def tiny_inputs() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    model = make_model(**SIZES)
    task = get_task("text-to-image-to-3d")
    codes = {"image": torch.randint(64, (2, 4), generator=g), "shape": torch.randint(64, (2, 5), generator=g)}
    sequence = build_sequence(task, codes, model.config)
    text = {
        "text_embeds": torch.randn(2, 4, 64, generator=g),
        "text_embeds_2": torch.randn(2, 6, 64, generator=g),
    }
    return {"input_ids": sequence.ids, "labels": sequence.labels, **text}


def load(folder: Path, method: str, spared: list[str] | None = SPARED, **options: Any) -> Any:
    config = quantization(method, spared)
    options = {"dtype": torch.float32, **options}
    return Omni123ForConditionalGeneration.from_pretrained(folder, quantization_config=config, **options)


@pytest.mark.parametrize("method", METHODS)
def test_linear_layers_alone_are_quantized(tiny_folder, method):
    original = Omni123ForConditionalGeneration.from_pretrained(tiny_folder)
    model = load(tiny_folder, method)
    quantized = quantized_names(model)
    assert quantized == linear_names(original, SPARED)
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    untouched = {k: v for k, v in original.state_dict().items() if k not in quantized}
    assert {"embed_tokens.weight", "null_text_embed", "mask_embed", "shape_code_table"} <= untouched.keys()
    assert [name for name, tensor in untouched.items() if not torch.equal(state[name], tensor)] == []
    spared = sum(tensor.nbytes for tensor in untouched.values())
    share = (bytes_of(model) - spared) / (bytes_of(original) - spared)
    assert share < (0.2 if "nf4" in method else 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_quantized_model_has_a_loss_and_generates(tiny_folder, method):
    model = load(tiny_folder, method)
    inputs = tiny_inputs()
    text = {name: inputs[name] for name in ("text_embeds", "text_embeds_2")}
    with torch.no_grad():
        assert model(**inputs).loss.isfinite()
    plan = generation_plan(get_task("text-to-image-to-3d"), model.config)
    codes = [model.generate_plan(plan, **text, guidance_scale=3.0) for _ in range(2)]
    assert {name: tuple(c.shape) for name, c in codes[0].items()} == {"image": (2, 4), "shape": (2, 5)}
    for name, value in codes[0].items():
        assert torch.equal(codes[1][name], value) and 0 <= value.min() and value.max() < 64
    uncached = model.generate_plan(plan, **text, guidance_scale=3.0, use_cache=False)
    # int8 activations are rounded by row and so alike; only the first code surely sees the same sums.
    assert torch.equal(uncached["image"][:, 0], codes[0]["image"][:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_quantized_model_computes_in_half_precision(tiny_folder, method):
    model = load(tiny_folder, method, dtype=torch.bfloat16)
    results = run(model, {k: v for k, v in tiny_inputs().items() if k != "labels"})
    assert results["shape_logits"].dtype == torch.bfloat16
    assert all(tensor.isfinite().all() for tensor in results.values())


@pytest.mark.parametrize("method", METHODS)
def test_lora_trains_on_quantized_weights(tiny_folder, tmp_path, method):
    peft = pytest.importorskip("peft", reason="peft is an optional package: pip install peft")

    torch.manual_seed(0)
    targets = ["qk_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(load(tiny_folder, method), peft.LoraConfig(r=2, target_modules=targets)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        torch.manual_seed(1)
        loss = model(**tiny_inputs()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(load(tiny_folder, method), tmp_path).eval()
    inputs = {k: v for k, v in tiny_inputs().items() if k != "labels"}
    torch.testing.assert_close(run(loaded, inputs)["shape_logits"], run(model.eval(), inputs)["shape_logits"])


@pytest.mark.parametrize("method", METHODS)
def test_quantized_model_is_saved_whole_or_refused(tiny_folder, tmp_path, method):
    """torchao cannot read back tensors at the root of a model (`null_text_embed`): then saving must say so at once."""
    model = load(tiny_folder, method)
    try:
        model.save_pretrained(tmp_path)
    except ValueError as error:
        assert method == "torchao int8" and "torchao" in str(error)
        assert not list(tmp_path.iterdir())
        return
    loaded = Omni123ForConditionalGeneration.from_pretrained(tmp_path)
    assert quantized_names(loaded) == quantized_names(model)
    # Read back before its first pass, because bitsandbytes' 4-bit layers repack themselves in it on some CPUs.
    inputs = {k: v for k, v in tiny_inputs().items() if k != "labels"}
    torch.testing.assert_close(run(loaded, inputs)["shape_logits"], run(model, inputs)["shape_logits"])


def test_image_tokenizer_is_saved_whole_or_refused(tmp_path):
    config = quantization("torchao int8")
    model = Omni123ImageTokenizer.from_pretrained(MINI / "image_tokenizer", quantization_config=config)
    latent = torch.randn(1, 48, 8, 8, generator=torch.Generator().manual_seed(0))
    try:
        model.save_pretrained(tmp_path)
    except ValueError as error:
        assert "torchao" in str(error) and not list(tmp_path.iterdir())
        return
    loaded = Omni123ImageTokenizer.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(latent), model.encode(latent))


@pytest.fixture(scope="module")
def mini() -> tuple[Any, dict[str, Any], dict[str, torch.Tensor]]:
    """The shipped model, a sequence that it finds likely, and its logits."""
    model = Omni123ForConditionalGeneration.from_pretrained(MINI / "transformer")
    g = torch.Generator().manual_seed(0)
    sizes = {"text_embeds": model.config.text_embed_dim, "text_embeds_2": model.config.text_embed_dim_2}
    text = {name: torch.randn(4, 24, size, generator=g) for name, size in sizes.items()}
    task = get_task("text-to-3d")
    codes = model.generate_plan(generation_plan(task, model.config), **text, guidance_scale=1.0)
    sequence = build_sequence(task, codes, model.config)
    inputs = {"input_ids": sequence.ids, **text, "modality": "shape"}
    return model, inputs, run(model, inputs)


@pytest.mark.parametrize("method", METHODS)
def test_shipped_model_stays_close(mini, method):
    original, inputs, expected = mini
    model = load(MINI / "transformer", method)
    logits, wanted = run(model, inputs)["shape_logits"], expected["shape_logits"]
    error = relative_error(logits, wanted)
    same = float((logits.argmax(-1) == wanted.argmax(-1))[:, :-1].float().mean())
    sizes = bytes_of(original) / 1e6, bytes_of(model) / 1e6
    print(f"\n{method}: {sizes[0]:.1f} -> {sizes[1]:.1f} MB, logits off by {error:.2%}, same best code {same:.1%}")
    assert error < BOUNDS[method][0] and same > BOUNDS[method][1]


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("spared", [None, ["quantizer", "point_embedding", "classifier"]])
def test_shape_tokenizer_keeps_its_quantizer(tmp_path, method, spared):
    """The code book and its projections decide tokens: they stay exact, also when the caller names no modules."""
    contract = ShapeContract()
    original = contract.make_model()
    original.save_pretrained(tmp_path / "float")
    config = quantization(method, spared)
    model = Omni123ShapeTokenizer.from_pretrained(tmp_path / "float", quantization_config=config, dtype=torch.float32)
    quantized = quantized_names(model)
    assert {name for name in linear_names(original, ["quantizer"]) if "classifier" not in name} == {
        name for name in quantized if "classifier" not in name
    }
    pinned = {name: p for name, p in original.named_parameters() if name.startswith(("quantizer", "point_embedding"))}
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in pinned.items())
    assert bytes_of(model) < 0.4 * bytes_of(original)
    with torch.no_grad():
        expected = {name: call() for name, call in contract.doors(original).items()}
        found = {name: call() for name, call in contract.doors(model).items()}
    assert (found["encode"] == expected["encode"]).float().mean() > 0.8
    assert relative_error(found["decode_latents"], expected["decode_latents"]) < 0.05
    assert relative_error(found["query"], expected["query"]) < 0.05
    model.save_pretrained(tmp_path / "quantized")
    loaded = Omni123ShapeTokenizer.from_pretrained(tmp_path / "quantized")
    with torch.no_grad():
        assert all(torch.equal(call(), found[name]) for name, call in contract.doors(loaded).items())


@pytest.mark.parametrize("method", METHODS[:2])
def test_shipped_tokenizers_give_nearly_the_same_tokens(method):
    g = torch.Generator().manual_seed(0)
    normals = nn.functional.normalize(torch.randn(2, 512, 3, generator=g), dim=-1)
    inputs: dict[Any, tuple[str, tuple[torch.Tensor, ...]]] = {
        Omni123ShapeTokenizer: ("shape_tokenizer", (0.7 * normals, normals)),
        Omni123ImageTokenizer: ("image_tokenizer", (torch.randn(2, 48, 8, 8, generator=g),)),
    }
    for model_class, (name, arguments) in inputs.items():
        original = model_class.from_pretrained(MINI / name)
        config = quantization(method)
        model = model_class.from_pretrained(MINI / name, quantization_config=config, dtype=torch.float32)
        assert not {key for key in quantized_names(model) if key.startswith("quantizer")}
        with torch.no_grad():
            same = float((model.encode(*arguments) == original.encode(*arguments)).float().mean())
        sizes = bytes_of(original) / 1e6, bytes_of(model) / 1e6
        print(f"\n{method}, {name}: {sizes[0]:.1f} -> {sizes[1]:.1f} MB, same tokens {same:.1%}")
        assert same > 0.85


def test_pipeline_takes_a_quantized_transformer(tiny_pipeline_folder):
    from omni123_hf.pipelines import Omni123JointPipeline

    transformer = load(tiny_pipeline_folder / "transformer", "torchao int8")
    pipeline = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder, transformer=transformer)
    assert quantized_names(pipeline.transformer)
    result = pipeline("a tall red vase", resolution=16, output_type="tokens")
    assert result.shape_tokens.shape[-1] == transformer.config.num_shape_tokens
