"""Adapters in a pipeline: what they change, that they leave no trace, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lora_hub import ModelHub
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_pipeline import TINY_PROMPT, build_tiny_pipeline

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.fingerprint import weights_fingerprint
from omni123_hf.pipelines import Omni123JointPipeline, Omni123TextTo3DPipeline
from omni123_hf.pipelines.lora_folder import write_adapter_provenance


TARGETS = ["qk_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_adapter(folder: Path, pipeline, base: dict | None = None, seed: int = 0, heads: bool = False) -> Path:
    """An adapter of random weights, large enough to change the codes; the pipeline's transformer stays as it was."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, modules_to_save=["shape_head"] if heads else None)
    model = get_peft_model(pipeline.transformer, config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                value.normal_(std=0.5)
    config.base_model_name_or_path = "tiny"
    model.save_pretrained(folder, save_embedding_layers=False)
    model.unload()
    if base is not None:
        write_adapter_provenance(folder, {"base": base, "licence": "CC0-1.0"})
    return folder


@pytest.fixture(scope="module")
def base(tiny_pipeline_folder) -> dict:
    pipeline = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)
    return {
        "name": "tiny",
        "revision": pipeline.revision,
        "fingerprint": weights_fingerprint(pipeline.transformer),
    }


@pytest.fixture(scope="module")
def adapters(tiny_pipeline_folder, base, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    pipeline = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)
    return {
        "one": write_adapter(folder / "one", pipeline, base),
        "two": write_adapter(folder / "two", pipeline, base, seed=1),
        "heads": write_adapter(folder / "heads", pipeline, base, seed=2, heads=True),
        "plain": write_adapter(folder / "plain", pipeline, seed=3),
    }


@pytest.fixture
def pipeline(tiny_pipeline_folder):
    return Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)


def logits(pipeline) -> torch.Tensor:
    """What the transformer says of one fixed sequence under one prompt."""
    text = pipeline.encode_prompt([TINY_PROMPT])
    config = pipeline.transformer.config
    ids = torch.tensor([[config.shape_start_id, 1, 5, 9]])
    with torch.no_grad():
        return pipeline.transformer(
            ids,
            text_embeds=text.text_embeds,
            text_embeds_2=text.text_embeds_2,
            text_attention_mask_2=text.text_attention_mask_2,
            modality="shape",
        ).shape_logits


def state(pipeline) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}


def assert_same_state(pipeline, before: dict[str, torch.Tensor]) -> None:
    now = pipeline.transformer.state_dict()
    assert set(now) == set(before)
    assert all(torch.equal(now[name], before[name]) for name in before)
    assert not hasattr(pipeline.transformer, "peft_config")


@pytest.mark.parametrize("name", ["one", "heads"])
def test_an_adapter_changes_the_codes_and_leaves_no_trace(pipeline, adapters, name):
    before, alone, codes = state(pipeline), logits(pipeline), pipeline(TINY_PROMPT, output_type="tokens").shape_tokens
    pipeline.load_lora_weights(adapters[name])
    assert not torch.allclose(logits(pipeline), alone, atol=1e-3)
    assert not torch.equal(pipeline(TINY_PROMPT, output_type="tokens").shape_tokens, codes)
    pipeline.unload_lora_weights()
    assert_same_state(pipeline, before)
    assert torch.equal(logits(pipeline), alone)


def test_it_computes_what_peft_computes(pipeline, adapters, tiny_pipeline_folder):
    other = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)
    PeftModel.from_pretrained(other.transformer, adapters["one"])
    pipeline.load_lora_weights(adapters["one"])
    assert torch.equal(logits(pipeline), logits(other))


def test_scale_zero_is_the_base_and_one_half_lies_between(pipeline, adapters):
    alone = logits(pipeline)
    pipeline.load_lora_weights(str(adapters["one"]), scale=0)
    assert torch.equal(logits(pipeline), alone)
    pipeline.set_lora_scale(1)
    whole = logits(pipeline)
    # Small scales: there the model answers in proportion, whatever its random weights.
    steps = []
    for scale in (0.005, 0.01):
        pipeline.set_lora_scale(scale)
        steps.append(float((logits(pipeline) - alone).abs().mean()))
    assert 0 < steps[0] < float((whole - alone).abs().mean()) and steps[1] == pytest.approx(2 * steps[0], rel=0.2)
    pipeline.set_lora_scale(0.5)
    half = logits(pipeline)
    assert not torch.equal(half, alone) and not torch.equal(half, whole)
    assert pipeline.describe_adapters()[0]["scale"] == 0.5
    pipeline.disable_lora()
    assert torch.equal(logits(pipeline), alone)
    pipeline.enable_lora()
    assert torch.equal(logits(pipeline), half)


def test_several_adapters_add_up_in_any_order_and_switch(pipeline, adapters):
    pipeline.load_lora_weights(adapters["one"], adapter_name="one")
    one = logits(pipeline)
    pipeline.load_lora_weights(adapters["two"], adapter_name="two")
    assert pipeline.get_active_adapters() == ["two"]
    assert pipeline.get_list_adapters() == {"transformer": ["one", "two"]}
    two = logits(pipeline)
    pipeline.set_adapters(["one", "two"], [1.0, 0.5])
    both = logits(pipeline)
    assert not torch.equal(both, one) and not torch.equal(both, two)
    pipeline.set_adapters(["two", "one"])
    assert torch.allclose(logits(pipeline), both, atol=1e-5)
    pipeline.set_adapters("one")
    assert torch.equal(logits(pipeline), one)
    # Its scale was kept while it rested.
    pipeline.set_adapters("two")
    assert pipeline.describe_adapters()[0]["scale"] == 0.5


@pytest.mark.parametrize("name", ["one", "heads"])
def test_fusing_gives_the_same_output_and_is_taken_back_bit_for_bit(pipeline, adapters, name):
    before = state(pipeline)
    pipeline.load_lora_weights(adapters[name])
    if name == "one":
        pipeline.set_lora_scale(0.7)
    wanted = logits(pipeline)
    pipeline.fuse_lora()
    assert torch.allclose(logits(pipeline), wanted, atol=1e-5)
    with pytest.raises(Omni123Error, match="fused; call unfuse_lora"):
        pipeline.set_lora_scale(0.1)
    pipeline.unfuse_lora()
    assert torch.equal(logits(pipeline), wanted)
    pipeline.unload_lora_weights()
    assert_same_state(pipeline, before)


@pytest.mark.parametrize("name", ["one", "heads"])
def test_merged_weights_are_a_checkpoint_of_their_own(pipeline, adapters, tmp_path, name):
    revision = pipeline.revision
    pipeline.load_lora_weights(adapters[name])
    wanted = logits(pipeline)
    for attempt in (pipeline.save_pretrained, lambda out: (pipeline.fuse_lora(), pipeline.save_pretrained(out))):
        with pytest.raises(Omni123Error, match="carries adapters"):
            attempt(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    pipeline.unload_lora_weights()
    assert pipeline.revision.startswith(f"{revision}+")
    pipeline.save_pretrained(tmp_path / "merged")
    merged = Omni123JointPipeline.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), wanted, atol=1e-5)
    # An adapter of the old base does not belong to it any more.
    with pytest.raises(Omni123Error, match="was trained on tiny"):
        pipeline.load_lora_weights(adapters["two"])


def test_saving_an_adapter_gives_a_folder_that_loads_again(pipeline, adapters, tmp_path):
    pipeline.load_lora_weights(adapters["one"], adapter_name="one")
    pipeline.load_lora_weights(adapters["two"], adapter_name="two")
    wanted = logits(pipeline)
    with pytest.raises(Omni123Error, match="which adapter"):
        pipeline.save_lora_weights(tmp_path / "copy")
    pipeline.save_lora_weights(tmp_path / "copy", "two")
    assert sorted(file.name for file in (tmp_path / "copy").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "provenance.json",
    ]  # fmt: skip
    config = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(tmp_path / "copy")
    assert torch.equal(logits(pipeline), wanted)
    with pytest.raises(Omni123Error, match="not an empty folder"):
        pipeline.save_lora_weights(tmp_path / "copy")


def test_another_pipeline_class_takes_the_same_adapter(tiny_pipeline_folder, adapters):
    pipeline = Omni123TextTo3DPipeline.from_pretrained(tiny_pipeline_folder)
    codes = pipeline(TINY_PROMPT, output_type="tokens").shape_tokens
    pipeline.load_lora_weights(adapters["one"])
    assert not torch.equal(pipeline(TINY_PROMPT, output_type="tokens").shape_tokens, codes)


def test_a_copy_of_the_base_under_another_revision_is_known_by_its_weights(pipeline, adapters, tmp_path):
    pipeline.save_pretrained(tmp_path / "copy")
    copy = Omni123JointPipeline.from_pretrained(tmp_path / "copy")
    copy.revision = None
    copy.load_lora_weights(adapters["one"])
    assert copy.get_active_adapters() == ["default"]


def test_other_weights_are_refused_unless_asked_for(adapters, caplog):
    other = build_tiny_pipeline(seed=5)
    before = state(other)
    with pytest.raises(Omni123Error, match="trained on tiny .*weights here are others.*allow_other_base"):
        other.load_lora_weights(adapters["one"])
    assert_same_state(other, before)
    other.load_lora_weights(adapters["one"], allow_other_base=True)
    assert "trained on tiny" in caplog.text


def test_an_adapter_that_says_nothing_of_its_base_is_loaded_with_a_warning(pipeline, adapters, caplog):
    pipeline.load_lora_weights(adapters["plain"])
    assert "does not say which base" in caplog.text


def test_other_sizes_are_refused_whatever_is_allowed(adapters, tiny_pipeline_folder):
    from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration

    pipeline = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)
    fields = pipeline.transformer.config.to_diff_dict()
    narrow = {**fields, "hidden_size": 16, "head_dim": 8}
    for changes, message in (
        (narrow, "other sizes: .* is 64 wide here and 128 there"),
        ({**fields, "num_dual_layers": 1}, "other layers"),
    ):
        pipeline.register_modules(transformer=Omni123ForConditionalGeneration(Omni123Config(**changes)))
        before = state(pipeline)
        with pytest.raises(Omni123Error, match=message):
            pipeline.load_lora_weights(adapters["one"], allow_other_base=True)
        assert_same_state(pipeline, before)


def damage(folder: Path, kind: str) -> None:
    weights = folder / "adapter_model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif kind == "flipped":
        data = bytearray(weights.read_bytes())
        data[-5] ^= 255
        weights.write_bytes(bytes(data))
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no config":
        (folder / "adapter_config.json").unlink()
    elif kind == "config":
        (folder / "adapter_config.json").write_text("{")
    elif kind == "type":
        (folder / "provenance.json").unlink()
        (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    elif kind == "rank":
        # Whole by its hashes, and yet the configuration belongs to another adapter.
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 2}))
        (folder / "provenance.json").unlink()
    elif kind == "targets":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["v_proj"]}))
        (folder / "provenance.json").unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "corrupt or truncated"),
        ("flipped", "damaged or was changed"),
        ("no weights", "lacks adapter_model.safetensors"),
        ("no config", "holds no finished adapter"),
        ("config", "cannot read adapter_config.json"),
        ("type", "of type IA3"),
        ("rank", "cannot load the adapter"),
        ("targets", "do not fit"),
    ],
)
def test_a_damaged_adapter_is_named_and_leaves_the_pipeline_alone(pipeline, adapters, tmp_path, kind, message):
    folder = Path(shutil.copytree(adapters["one"], tmp_path / "adapter"))
    damage(folder, kind)
    before = state(pipeline)
    with pytest.raises(Omni123Error, match=message):
        pipeline.load_lora_weights(folder)
    assert_same_state(pipeline, before)
    # And beside a whole one, which goes on working.
    pipeline.load_lora_weights(adapters["two"], adapter_name="two")
    wanted = logits(pipeline)
    with pytest.raises(Omni123Error, match=message):
        pipeline.load_lora_weights(folder, adapter_name="broken")
    assert pipeline.get_active_adapters() == ["two"] and torch.equal(logits(pipeline), wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, a: p.load_lora_weights("nowhere"), "neither a folder nor a Hub id"),
        (lambda p, a: p.load_lora_weights(a["one"], weight_name="x"), "does not take 'weight_name'"),
        (lambda p, a: p.load_lora_weights(a["one"], adapter_name="a.b"), "letters, digits"),
        (lambda p, a: p.load_lora_weights(a["one"], scale=float("nan")), "finite number"),
        (lambda p, a: p.load_lora_weights(a["heads"], scale=0.5), "cannot be weighed"),
        (lambda p, a: p.unload_lora_weights(), "no adapter is loaded"),
        (lambda p, a: p.fuse_lora(), "no adapter is loaded"),
        (lambda p, a: p.unfuse_lora(), "nothing is fused"),
        (lambda p, a: p.set_lora_scale(0.5), "no adapter is loaded"),
        (lambda p, a: p.set_adapters("x"), "there is no adapter 'x'"),
        (lambda p, a: [p.load_lora_weights(a["one"]) for _ in "ab"], "there is an adapter 'default' already"),
        (lambda p, a: p.save_lora_weights("x"), "which adapter"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(pipeline, adapters, call, message):
    with pytest.raises(Omni123Error, match=message):
        call(pipeline, adapters)


def test_two_sets_of_heads_cannot_be_active_together(pipeline, adapters):
    pipeline.load_lora_weights(adapters["heads"], adapter_name="a")
    pipeline.load_lora_weights(adapters["heads"], adapter_name="b")
    with pytest.raises(Omni123Error, match="both bring whole heads"):
        pipeline.set_adapters(["a", "b"])
    pipeline.load_lora_weights(adapters["one"], adapter_name="c")
    pipeline.set_adapters(["a", "c"])


def test_without_peft_the_extra_is_named(pipeline, adapters, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(Omni123Error, match=r"pip install 'omni123-hf\[lora\]'"):
        pipeline.load_lora_weights(adapters["one"])


def test_half_precision_runs_and_unloads(tiny_pipeline_folder, adapters):
    pipeline = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder, dtype=torch.bfloat16)
    before = state(pipeline)
    pipeline.load_lora_weights(adapters["one"])
    assert {value.dtype for name, value in pipeline.transformer.named_parameters() if "lora_" in name} == {
        torch.bfloat16
    }
    assert torch.isfinite(logits(pipeline)).all()
    pipeline.fuse_lora()
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    assert_same_state(pipeline, before)


def test_from_the_hub(pipeline, adapters, tmp_path, monkeypatch):
    with ModelHub(tmp_path, monkeypatch) as hub:
        hub.repos["someone/gears"] = []
        files = {file.name: file.read_bytes() for file in adapters["one"].iterdir()}
        hub.commit("someone/gears", {**files, "work/large.bin": b"x" * 1000})
        pipeline.load_lora_weights("someone/gears")
        assert not any("large.bin" in request for request in hub.requests)
        here = logits(pipeline)
        with pytest.raises(Omni123Error, match="no checkpoint 'someone/else' on the Hub"):
            pipeline.load_lora_weights("someone/else", adapter_name="else")
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(adapters["one"])
    assert torch.equal(logits(pipeline), here)
