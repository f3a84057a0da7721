"""Fast decoding through PEFT's adapters that are not merged: the plain engine's codes, and nothing stale."""

import copy

import pytest
import torch
from test_generation_omni123 import make_plan
from tiny_omni123 import KS, make_model, make_text

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import generation_fast_omni123 as fast
from omni123_hf.modeling import generation_plan, get_task
from omni123_hf.modeling.adapters_omni123 import folded_weights


peft = pytest.importorskip("peft")
STREAM = r".*generation_(qkv|out)\.(qk|v|o|gate|up|down)_proj"
EVERYTHING = rf"{STREAM}|.*conditioning.*_proj|shape_head|image_head|(shape|image)_code_proj|embed_tokens|text_proj"


def add(model, name="default", targets=EVERYTHING, seed=0, std=0.3, **settings):
    """Adds an adapter of random weights, large enough to change codes."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **settings)
    if hasattr(model, "peft_config"):
        model.add_adapter(name, config)
        wrapped = model
    else:
        wrapped = peft.PeftModel(model, config, name)
    with torch.no_grad():
        for parameter_name, parameter in wrapped.named_parameters():
            if f".{name}." in parameter_name and "lora_" in parameter_name:
                parameter.normal_(std=std)
    return wrapped.eval()


def codes(model, engine, **settings):
    plan = make_plan("text-to-image-to-3d", model.config)
    return torch.cat(list(model.generate_plan(plan, **make_text(), engine=engine, **settings).values()), dim=1)


def assert_same_engines(model, **settings):
    plain, found = (codes(model, engine, **settings) for engine in ("plain", "fast"))
    assert torch.equal(plain, found)
    return found


@pytest.fixture
def model():
    return make_model()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_alpha": 3, "use_rslora": True},
        {"lora_alpha": 3, "alpha_pattern": {"o_proj": 1}, "rank_pattern": {"v_proj": 3}},
        {"targets": STREAM + "|shape_head", "lora_bias": True},
        {"targets": STREAM, "modules_to_save": ["shape_head", "embed_tokens"]},
        {"lora_dropout": 0.5},
    ],
)
def test_greedy_codes_equal_the_plain_ones(model, settings):
    before = codes(model, "fast")
    adapted = add(model, **settings)
    if "modules_to_save" in settings:
        with torch.no_grad():
            adapted.base_model.model.shape_head.modules_to_save["default"].weight.normal_(std=0.3)
    assert not torch.equal(assert_same_engines(model), before)
    # Drawn at temperature 1: logits, not only their largest entries.
    plan = generation_plan(get_task("text-to-3d"), model.config)
    drawn = [
        model.generate_plan(
            plan, **make_text(), engine=engine, temperature=1.0, generator=torch.Generator().manual_seed(0)
        )["shape"]
        for engine in ("plain", "fast")
    ]
    assert torch.equal(*drawn)
    with adapted.disable_adapter():
        assert torch.equal(assert_same_engines(model), before)
    assert not torch.equal(assert_same_engines(model), before)


def test_many_greedy_codes_equal_the_plain_ones():
    model = make_model(num_shape_tokens=256, num_shape_codes=500, num_dual_layers=1, num_single_layers=1)
    plan = generation_plan(get_task("text-to-3d"), model.config)
    before = model.generate_plan(plan, **make_text(1))["shape"]
    add(model, targets=STREAM, std=0.1)
    plain, found = (model.generate_plan(plan, **make_text(1), engine=each)["shape"] for each in ("plain", "fast"))
    assert len(plain.unique()) > 20 and torch.equal(plain, found) and not torch.equal(plain, before)


def test_every_change_of_state_is_noticed(model):
    base = codes(model, "fast")
    adapted = add(model, "one")
    seen = [base, assert_same_engines(model)]
    add(adapted, "two", targets=STREAM, seed=1)
    assert torch.equal(assert_same_engines(model), seen[1])
    adapted.set_adapter("two")
    seen.append(assert_same_engines(model))
    adapted.base_model.set_adapter(["one", "two"])
    seen.append(assert_same_engines(model))
    layers = [each for each in model.modules() if isinstance(each, peft.tuners.lora.LoraLayer)]
    for layer in layers:
        layer.set_scale("two", 0.4)
    seen.append(assert_same_engines(model))
    with torch.no_grad():
        model.dual_blocks[0].generation_qkv.v_proj.lora_B["one"].weight.neg_()
        model.shape_head.lora_A["one"].weight.mul_(-3)
    seen.append(assert_same_engines(model))
    assert all(not torch.equal(a, b) for place, a in enumerate(seen) for b in seen[place + 1 :])
    decoder = fast.decoder_of(model)
    assert fast.decoder_of(model) is decoder
    # The unconditional prompt runs through the conditioning stream: it goes stale with it, too.
    for layer in layers:
        layer.set_scale("one", 0.0)
    assert fast.decoder_of(model) is not decoder
    assert_same_engines(model)
    adapted.unload()
    assert torch.equal(assert_same_engines(model), base)


def test_adapters_of_the_conditioning_stream_alone(model):
    base = codes(model, "fast")
    adapted = add(model, targets=r".*conditioning_qkv\.[kv]_proj", use_dora=True)
    changed = assert_same_engines(model)
    with adapted.disable_adapter():
        assert torch.equal(assert_same_engines(model), base)
    assert torch.equal(codes(model, "fast"), changed)


def test_merged_adapters(model):
    base = codes(model, "plain")
    adapted = add(model, targets=STREAM)
    active = assert_same_engines(model)
    adapted.merge_adapter()
    assert torch.equal(assert_same_engines(model), active)
    adapted.base_model.disable_adapter_layers()
    with pytest.raises(Omni123Error, match="merged adapters that are switched off"):
        codes(model, "fast")
    assert torch.equal(codes(model, "auto"), base)
    # The plain engine has taken them out.
    assert torch.equal(assert_same_engines(model), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_weights_are_those_that_peft_merges(model, dtype):
    model.to(dtype)
    adapted = add(model, "one", lora_alpha=3)
    add(adapted, "two", targets=STREAM + "|embed_tokens", seed=1, use_rslora=True)
    adapted.base_model.set_adapter(["one", "two"])
    before = copy.deepcopy(model.state_dict())
    parts = [model.dual_blocks[0].generation_qkv.v_proj, model.single_blocks[1].generation_out.down_proj]
    parts += [model.embed_tokens, model.shape_head]
    folded = [folded_weights(part)[0] for part in parts]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    adapted.merge_adapter()
    for part, weight in zip(parts, folded, strict=True):
        assert weight.dtype == dtype and torch.equal(weight, part.get_base_layer().weight)


def test_8_bit_weights_of_an_adapted_model(model):
    add(model, targets=STREAM)
    assert codes(model, "fast", decode_weights="int8").shape == codes(model, "plain").shape


def test_what_cannot_be_folded_decodes_plainly(model):
    adapted = add(copy.deepcopy(model), targets=STREAM, use_dora=True).base_model.model
    with pytest.raises(Omni123Error, match=r"generation_qkv\.qk_proj has an adapter that no sum .*DoraLinearVariant"):
        codes(adapted, "fast")
    assert torch.equal(codes(adapted, "auto"), codes(adapted, "plain"))
    other = peft.inject_adapter_in_model(peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[]), copy.deepcopy(model)).eval()  # fmt: skip
    with pytest.raises(Omni123Error, match="an adapter, or quantised"):
        codes(other, "fast")
    training = add(copy.deepcopy(model), targets=STREAM, lora_dropout=0.5).base_model.model
    for layer in training.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.train()
    with pytest.raises(Omni123Error, match="dropout is in training mode"):
        codes(training, "fast")


def test_training_an_adapter_goes_on_after_fast_decoding(model):
    adapted = add(model, targets=STREAM)
    assert_same_engines(model)
    weights = [parameter for name, parameter in adapted.named_parameters() if "lora_" in name]
    frozen = model.dual_blocks[0].generation_qkv.v_proj.get_base_layer().weight.clone()
    optimizer = torch.optim.SGD(weights, lr=1.0)
    model(torch.randint(KS, (2, 6)), labels=torch.randint(KS, (2, 6)), **make_text()).loss.backward()
    optimizer.step()
    assert_same_engines(model)
    assert torch.equal(model.dual_blocks[0].generation_qkv.v_proj.get_base_layer().weight, frozen)
