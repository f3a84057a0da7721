"""Conversion of Cube 3D checkpoints: sizes, every tensor, the token table, bad files, what is written."""

import json
import os
import shutil
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cube3d_checkpoint import NO_BIAS, UNSEEN, V05, CubeCheckpoint, CubeSizes, gpt_shapes, tokenizer_shapes
from cube3d_reference import token_table
from huggingface_hub.errors import RevisionNotFoundError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel

from omni123_hf.conversion.cube3d import convert_cube3d, text_encoder_command
from omni123_hf.conversion.cube3d_card import RELEASES
from omni123_hf.conversion.cube3d_keys import gpt_key, tokenizer_key
from omni123_hf.conversion.cube3d_sizes import CubeSettings, read_configs
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123ForConditionalGeneration, Omni123ShapeTokenizer
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer
from omni123_hf.pipelines import Omni123TextTo3DPipeline
from omni123_hf.pipelines.registry import check_checkpoint, provenance


@pytest.fixture
def checkpoint() -> CubeCheckpoint:
    return CubeCheckpoint.random(V05)


def convert(checkpoint: CubeCheckpoint, folder: Path, **options) -> Path:
    gpt, tokenizer = checkpoint.save(folder / "source")
    convert_cube3d(gpt, tokenizer, folder / "converted", **options)
    return folder / "converted"


def refused(checkpoint: CubeCheckpoint, folder: Path, **options) -> str:
    """The message of a refused conversion, which must be one line and leave nothing."""
    with pytest.raises(Omni123Error) as caught:
        convert(checkpoint, folder, **options)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in folder.iterdir()] == ["source"]
    return str(caught.value)


@pytest.mark.parametrize("name", UNSEEN)
def test_sizes_are_read_and_every_tensor_lands_unchanged(name, tmp_path):
    sizes = UNSEEN[name]
    checkpoint = CubeCheckpoint.random(sizes)
    pipeline = Omni123TextTo3DPipeline.from_pretrained(convert(checkpoint, tmp_path))
    config, shape_config = pipeline.transformer.config, pipeline.shape_tokenizer.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (
        sizes.width,
        sizes.heads,
        sizes.inner,
    )
    assert (config.num_dual_layers, config.num_single_layers) == (sizes.duals, sizes.singles)
    assert (config.use_bbox, config.text_embed_dim, config.rope_theta) == (sizes.has_box, sizes.text, 10000.0)
    assert config.num_shape_tokens == shape_config.num_latents == sizes.latents
    assert config.num_shape_codes == shape_config.num_codes == sizes.codes
    assert shape_config.code_dim == sizes.code_dim and shape_config.num_frequencies == sizes.frequencies
    assert shape_config.num_attention_heads == sizes.tokenizer_heads
    assert (shape_config.num_encoder_layers, shape_config.num_decoder_layers) == (
        sizes.encoder_layers,
        sizes.decoder_layers,
    )
    assert shape_config.encoder_cross_attention_layers == list(sizes.cross_layers)

    landed = set()
    for model, rename, source in (
        (pipeline.transformer, gpt_key, checkpoint.gpt),
        (pipeline.shape_tokenizer, tokenizer_key, checkpoint.tokenizer),
    ):
        for key, value in model.state_dict().items():
            name = sizes.embedders[0] if rename(key) == "embedder.weight" else rename(key)
            if name in source:
                assert torch.equal(value, source[name]), name
                landed.add(name)
            elif key not in ("embed_tokens.weight", "shape_head.weight"):
                assert name.endswith(".bias") and not sizes.bias and not value.any(), name
    rebuilt = {"transformer.wte.weight", "lm_head.weight", "shape_proj.weight", "shape_proj.bias"}
    assert landed == {*checkpoint.gpt, *checkpoint.tokenizer} - rebuilt
    assert torch.equal(pipeline.transformer.shape_head.weight, checkpoint.gpt["lm_head.weight"][: sizes.codes])
    table = pipeline.transformer.embed_tokens.weight
    assert torch.equal(table[sizes.codes :], checkpoint.gpt["transformer.wte.weight"][sizes.codes :])
    assert torch.allclose(table, token_table(checkpoint.gpt, checkpoint.tokenizer), atol=1e-6)


def test_the_folder_is_a_whole_checkpoint_with_cube_guidance(checkpoint, tmp_path):
    folder = convert(checkpoint, tmp_path)
    check_checkpoint(folder)
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "README.md",
        "model_index.json",
        "provenance.json",
        "shape_tokenizer",
        "transformer",
    ]
    pipeline = Omni123TextTo3DPipeline.from_pretrained(folder)
    assert pipeline.guidance(None, None) == (4.0, "linear_decay")
    config = pipeline.transformer.config
    assert not config.normalize_text_embeds and config.null_condition == "empty_prompt" and config.text_causal
    assert config.num_image_codes == config.num_views == config.shape_code_dim == config.token_dropout == 0


def test_card_and_provenance_state_licence_and_lineage(checkpoint, tmp_path):
    folder = convert(checkpoint, tmp_path)
    card, facts = (folder / "README.md").read_text(), provenance(folder)
    for statement in (
        "license: other",
        "license_name: cube3d-research-only-rail-ms",
        "github.com/Roblox/cube",
        "`openrail`",
    ):
        assert statement in card
    assert "base_model: unknown" in card and "Roblox/cube3d-v0.5" not in card
    lineage = facts["converted_from"]["files"]["gpt"]
    assert lineage["file"] == "shape_gpt.safetensors" and lineage["tensors"] == len(checkpoint.gpt)
    assert lineage["bytes"] == (tmp_path / "source" / "shape_gpt.safetensors").stat().st_size
    assert lineage["sha256"] in card and len(lineage["sha256"]) == 64
    assert str(tmp_path) not in card + json.dumps(facts)
    assert "research" in facts["licence"]


def test_settings_come_from_the_configuration_and_unknown_ones_are_told(checkpoint, tmp_path):
    gpt, tokenizer = checkpoint.save(tmp_path)
    settings = checkpoint.sizes.config()
    settings["gpt_model"] |= {"rope_theta": 500, "eps": 1e-5, "flavour": "mint"}
    settings["shape_model"]["eps"] = 1e-4
    (tmp_path / "config.json").write_text(json.dumps(settings))
    result = convert_cube3d(gpt, tokenizer, tmp_path / "converted", config=tmp_path / "config.json")
    assert result.unknown_settings == ["gpt_model.flavour"]
    pipeline = Omni123TextTo3DPipeline.from_pretrained(tmp_path / "converted")
    config = pipeline.transformer.config
    assert (config.rope_theta, config.layer_norm_eps, config.qk_norm_eps) == (500.0, 1e-5, 1e-5)
    assert pipeline.shape_tokenizer.config.layer_norm_eps == 1e-4
    assert provenance(tmp_path / "converted")["converted_from"]["settings"]["not_used"] == ["gpt_model.flavour"]


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("gpt_model", "n_layer", 5, "gpt_model.n_layer is 5, the tensors say 2"),
        ("gpt_model", "bias", False, "gpt_model.bias is False"),
        ("gpt_model", "use_bbox", False, "gpt_model.use_bbox is False"),
        ("shape_model", "encoder_cross_attention_levels", [0], "the tensors say [0, 2]"),
        ("shape_model", "num_heads", 4, "shape_model.num_heads is 4, the tensors say 3"),
        ("gpt_model", "use_pooled_text_embed", True, "gpt_model.use_pooled_text_embed True"),
        ("shape_model", "encoder_with_cls_token", False, "shape_model.encoder_with_cls_token False"),
        ("shape_model", "embed_point_feats", True, "shape_model.embed_point_feats True"),
        ("shape_model", "num_decoder_latents", 6, "shape_model.num_decoder_latents 6"),
        ("gpt_model", "rope_theta", "many", "rope_theta is 'many'"),
        ("gpt_model", "eps", 0, "eps is 0"),
        ("gpt_model", "rope_theta", 10**400, "that a float holds"),
        ("shape_model", "encoder_cross_attention_levels", [0, "two"], "is [0, 'two'], the tensors say [0, 2]"),
        ("shape_model", "encoder_cross_attention_levels", [[0], {"a": None}], "the tensors say [0, 2]"),
        ("gpt_model", "n_layer", [2, None], "the tensors say 2"),
    ],
)
def test_a_configuration_that_contradicts_or_asks_too_much(checkpoint, tmp_path, section, key, value, message):
    settings = checkpoint.sizes.config()
    settings[section][key] = value
    file = tmp_path / "source" / "other.json"
    file.parent.mkdir()
    file.write_text(json.dumps(settings))
    assert message in refused(checkpoint, tmp_path, config=file)


def test_a_configuration_that_is_none(checkpoint, tmp_path):
    file = tmp_path / "source" / "other.json"
    assert "cannot read the configuration" in refused(checkpoint, tmp_path, config=file)
    deep = '{"gpt_model": ' + "[" * 100_000
    for text, message in (
        (deep, "nested too deeply"),
        ("{", "as JSON"),
        ('{"model": 1}', "no sections"),
        ('{"gpt_model": 3}', "no sections"),
    ):
        file.write_text(text)
        assert message in refused(checkpoint, tmp_path, config=file)


def test_all_faults_of_a_file_are_in_one_error(checkpoint, tmp_path):
    del checkpoint.gpt["lm_head.weight"]
    del checkpoint.gpt["transformer.dual_blocks.0.attn.pre_x.c_v.bias"]
    checkpoint.gpt["transformer.dual_blocks.0.attn.pre_x.c_qk.bias"] = torch.zeros(64)
    checkpoint.gpt["text_proj.bias"] = torch.zeros(31)
    message = refused(checkpoint, tmp_path)
    assert "2 missing (lm_head.weight, transformer.dual_blocks.0.attn.pre_x.c_v.bias)" in message
    assert "1 unknown (transformer.dual_blocks.0.attn.pre_x.c_qk.bias)" in message
    assert "1 of another shape (text_proj.bias is [31], not [32])" in message


@pytest.mark.parametrize("name", sorted(gpt_shapes(V05)))
def test_any_gpt_tensor_that_is_missing_is_named(checkpoint, tmp_path, name):
    del checkpoint.gpt[name]
    assert f"1 missing ({name})" in refused(checkpoint, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "embedder.weight",
        "encoder.query",
        "encoder.feat_in.in_layer.weight",
        "encoder.blocks.1.attn.q_norm.weight",
        "encoder.blocks.2.attn.c_v.weight",
        "bottleneck.block.codebook.weight",
        "bottleneck.block.c_x.bias",
        "bottleneck.block.norm.weight",
        "decoder.positional_encodings",
        "decoder.blocks.1.mlp.up_proj.weight",
        "occupancy_decoder.c_head.bias",
    ],
)
def test_a_tokenizer_tensor_that_is_missing_or_misshapen_is_named(checkpoint, tmp_path, name):
    tensor = checkpoint.tokenizer.pop(name)
    assert f"1 missing ({name})" in refused(checkpoint, tmp_path)
    if tensor.ndim == 2 and "blocks" in name:
        checkpoint.tokenizer[name] = tensor[:-1]
        assert f"{name} is [{len(tensor) - 1}, " in refused(checkpoint, tmp_path)


def test_long_lists_are_capped_with_a_count(checkpoint, tmp_path):
    checkpoint.gpt |= {f"adapter.{i}": torch.zeros(1) for i in range(40)}
    message = refused(checkpoint, tmp_path)
    assert "40 unknown (adapter.0, " in message and "and 28 more" in message


def test_swapped_files_other_models_and_files_that_do_not_belong_together(checkpoint, tmp_path):
    gpt, tokenizer = checkpoint.save(tmp_path / "source")
    for files, message in (((tokenizer, gpt), "swapped"), ((gpt, gpt), "--tokenizer is the other")):
        with pytest.raises(Omni123Error, match=message):
            convert_cube3d(*files, tmp_path / "converted")
    save_file({"model.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(Omni123Error, match="no Cube 3D shape_gpt file: it holds 1 tensors"):
        convert_cube3d(str(tmp_path / "other.safetensors"), tokenizer, tmp_path / "converted")
    for changes in ({"codes": 14}, {"code_dim": 6}):
        other = CubeCheckpoint.random(replace(V05, **changes))
        mixed = CubeCheckpoint(V05, checkpoint.gpt, other.tokenizer)
        with pytest.raises(Omni123Error, match="do not belong together: the GPT is for 13 codes of 5"):
            convert(mixed, tmp_path / str(changes))


def test_files_that_are_absent_truncated_or_of_another_kind(checkpoint, tmp_path):
    gpt, tokenizer = map(Path, checkpoint.save(tmp_path / "source"))
    out = tmp_path / "converted"

    def message(*files) -> str:
        with pytest.raises(Omni123Error) as caught:
            convert_cube3d(*map(str, files), out)
        return str(caught.value)

    assert "no file" in message(tmp_path / "absent.safetensors", tokenizer)
    assert "no file 'missing/absent.safetensors'" in message("missing/absent.safetensors", tokenizer)
    assert "is a folder; give the file" in message(gpt.parent, tokenizer)
    whole = gpt.read_bytes()
    for content in (whole[:-4], whole[:100], b"", b"PK\x03\x04" + whole):
        gpt.write_bytes(content)
        assert "no safetensors file, or a truncated one" in message(gpt, tokenizer)
    tensors = {**checkpoint.gpt, "lm_head.weight": checkpoint.gpt["lm_head.weight"].to(torch.int8)}
    save_file(tensors, gpt)
    assert "other types than F32, F16 and BF16 (1 I8)" in message(gpt, tokenizer)
    checkpoint.gpt["text_proj.weight"][0, 0] = torch.nan
    save_file(checkpoint.gpt, gpt)
    assert "text_proj.weight" in message(gpt, tokenizer) and "NaN" in message(gpt, tokenizer)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["source"]


def test_tokenizers_that_cannot_be_represented(checkpoint, tmp_path):
    checkpoint.tokenizer["encoder.query"] = checkpoint.tokenizer["encoder.query"][1:]
    assert "no class token" in refused(checkpoint, tmp_path / "one")
    checkpoint = CubeCheckpoint.random(V05)
    weight = checkpoint.tokenizer["encoder.feat_in.in_layer.weight"]
    checkpoint.tokenizer["encoder.feat_in.in_layer.weight"] = weight[:, :-1]
    assert "reads 2 features a point" in refused(checkpoint, tmp_path / "two")


def test_the_embedder_may_have_all_three_names_but_one_value(tmp_path):
    names = ("embedder.weight", "encoder.embedder.weight", "occupancy_decoder.embedder.weight")
    checkpoint = CubeCheckpoint.random(replace(V05, embedders=names))
    pipeline = Omni123TextTo3DPipeline.from_pretrained(convert(checkpoint, tmp_path / "equal"))
    assert torch.equal(pipeline.shape_tokenizer.point_embedding.weight, checkpoint.tokenizer[names[0]])
    checkpoint.tokenizer[names[2]] += 1
    assert "different values for one embedder" in refused(checkpoint, tmp_path / "other")


def test_a_gpt_without_biases_may_keep_some_kinds_of_them(tmp_path):
    """Which projections keep a bias when the layers have none is unstated; zeros stand for those that are absent."""
    checkpoint = CubeCheckpoint.random(replace(NO_BIAS, has_box=True))
    last = "transformer.dual_blocks.1.attn.pre_c.c_k.bias"
    checkpoint.gpt[last] = torch.randn(32)
    checkpoint.gpt["text_proj.bias"] = torch.randn(32)
    del checkpoint.gpt["bbox_proj.bias"], checkpoint.gpt["shape_proj.bias"]
    model = Omni123TextTo3DPipeline.from_pretrained(convert(checkpoint, tmp_path)).transformer
    assert model.config.use_bias and not model.bbox_proj.bias.any()
    assert torch.equal(model.dual_blocks[1].conditioning_qkv.k_proj.bias, checkpoint.gpt[last])
    assert not model.dual_blocks[0].generation_qkv.v_proj.bias.any()
    assert torch.equal(model.text_proj.bias, checkpoint.gpt["text_proj.bias"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_stay_as_they_are(checkpoint, tmp_path, dtype):
    half = CubeCheckpoint(
        V05, *({k: v.to(dtype) for k, v in part.items()} for part in (checkpoint.gpt, checkpoint.tokenizer))
    )
    folder = convert(half, tmp_path)
    stored = load_file(folder / "transformer" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    loaded = Omni123TextTo3DPipeline.from_pretrained(folder)
    assert loaded.transformer.dtype == torch.float32
    assert torch.equal(loaded.transformer.text_proj.weight, half.gpt["text_proj.weight"].float())
    expected = token_table(checkpoint.gpt, checkpoint.tokenizer)
    assert torch.allclose(loaded.transformer.embed_tokens.weight, expected, atol=0.05)


def test_dtype_casts_all_but_what_decides_tokens(checkpoint, tmp_path):
    folder = convert(checkpoint, tmp_path, dtype="bfloat16")
    gpt = load_file(folder / "transformer" / "model.safetensors")
    tokenizer = load_file(folder / "shape_tokenizer" / "model.safetensors")
    assert {tensor.dtype for tensor in gpt.values()} == {torch.bfloat16}
    assert tokenizer["quantizer.codebook.weight"].dtype == tokenizer["point_embedding.weight"].dtype == torch.float32
    assert tokenizer["decoder.layers.0.v_proj.weight"].dtype == torch.bfloat16
    assert "unknown dtype 'int4'" in refused(checkpoint, tmp_path / "other", dtype="int4")


def test_an_existing_folder_is_replaced_only_when_asked_and_only_if_it_is_a_checkpoint(checkpoint, tmp_path):
    folder = convert(checkpoint, tmp_path)
    with pytest.raises(Omni123Error, match="add --overwrite"):
        convert(checkpoint, tmp_path)
    (folder / "mine.txt").write_text("kept?")
    before = (folder / "model_index.json").read_text()
    convert(checkpoint, tmp_path, overwrite=True)
    assert not (folder / "mine.txt").exists() and (folder / "model_index.json").read_text() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["converted", "source"]

    shutil.rmtree(folder)
    folder.mkdir()
    convert(checkpoint, tmp_path)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(Omni123Error, match="is no checkpoint"):
        convert(checkpoint, tmp_path, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "irreplaceable"


def test_source_files_inside_the_folder_to_replace_are_safe(checkpoint, tmp_path, clip_folder):
    folder = convert(checkpoint, tmp_path)
    inside = checkpoint.save(folder / "source")
    clip_folder.rename(folder / "clip")
    outside = (tmp_path / "source" / "shape_gpt.safetensors", tmp_path / "source" / "shape_tokenizer.safetensors")
    (folder / "link.safetensors").symlink_to(outside[0])
    for gpt, tokenizer, option, more in (
        (*inside, "--gpt", {}),
        (outside[0], inside[1], "--tokenizer", {}),
        (folder / "link.safetensors", outside[1], "--gpt", {}),
        (*outside, "--config", {"config": folder / "source" / "config.json"}),
        (*outside, "--text-encoder", {"text_encoder": str(folder / "clip")}),
        (*outside, "--text-encoder", {"text_encoder": str(folder)}),
    ):
        with pytest.raises(Omni123Error, match=f"holds a source file.*{option}"):
            convert_cube3d(str(gpt), str(tokenizer), folder, overwrite=True, **more)
    assert os.path.exists(inside[0]) and (folder / "clip" / "model.safetensors").is_file()


def test_targets_that_cannot_be_swapped_are_refused_before_the_work(checkpoint, tmp_path, monkeypatch):
    # The weights are absent: whoever looked for them first would complain about those.
    def message(out: Path) -> str:
        with pytest.raises(Omni123Error) as caught:
            convert_cube3d("absent.safetensors", "absent.safetensors", out, overwrite=True)
        return str(caught.value)

    folder = convert(checkpoint, tmp_path)
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    for out in (".", "..", "x/..", "/", str(folder), str(tmp_path / "converted")):
        assert "the folder you are in, one above it, or a mount point" in message(Path(out)), out
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for out in ("link", "link/out", "loop", "loop/out"):
        assert "is a link that leads nowhere" in message(Path(out)), out
    check_checkpoint(folder)


def test_a_link_to_a_checkpoint_stays_a_link(checkpoint, tmp_path):
    folder = convert(checkpoint, tmp_path)
    (folder / "mine.txt").write_text("replaced")
    (tmp_path / "link").symlink_to(folder)
    convert_cube3d(*checkpoint.save(tmp_path / "source"), tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and not (folder / "mine.txt").exists()
    check_checkpoint(folder)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["converted", "link", "source"]


def test_a_failure_while_writing_leaves_the_old_folder(checkpoint, tmp_path, monkeypatch):
    folder = convert(checkpoint, tmp_path)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("omni123_hf.conversion.cube3d.write_provenance", full)
    with pytest.raises(OSError, match="No space"):
        convert(checkpoint, tmp_path, overwrite=True)
    check_checkpoint(folder)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["converted", "source"]


@pytest.mark.parametrize("taken", [False, True])
def test_a_swap_that_fails_brings_the_old_folder_back(checkpoint, tmp_path, monkeypatch, taken):
    folder = convert(checkpoint, tmp_path)
    (folder / "mine.txt").write_text("irreplaceable")
    rename = Path.rename

    def fail_at_the_second(self, target):
        if self.name == "checkpoint":
            if taken:
                # Somebody writes there in between: the old folder cannot go back, and must not go.
                folder.mkdir()
                (folder / "theirs.txt").write_text("theirs")
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_second)
    with pytest.raises(OSError, match="Input/output error"):
        convert(checkpoint, tmp_path, overwrite=True)
    kept = next(tmp_path.glob(".omni123-*/replaced")) if taken else folder
    assert (kept / "mine.txt").read_text() == "irreplaceable"
    check_checkpoint(kept)
    names = sorted(entry.name for entry in tmp_path.iterdir() if not (taken and entry == kept.parent))
    assert names == ["converted", "source"]


def test_hub_ids_name_a_file_or_the_known_one(checkpoint, tmp_path, monkeypatch):
    files = dict(zip(("gpt", "tokenizer"), checkpoint.save(tmp_path / "source"), strict=True))
    asked = []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        return files["gpt" if "gpt" in name else "tokenizer"]

    monkeypatch.setattr("omni123_hf.conversion.source_file.hf_hub_download", download)
    convert_cube3d("someone/cube", "someone/cube:parts/tokenizer.safetensors", tmp_path / "converted")
    assert asked == [
        ("someone/cube", "shape_gpt.safetensors", None),
        ("someone/cube", "parts/tokenizer.safetensors", None),
    ]
    assert "base_model: someone/cube" in (tmp_path / "converted" / "README.md").read_text()


def test_the_commit_that_a_revision_resolves_to_is_recorded(checkpoint, tmp_path, monkeypatch):
    # The layout of the Hub's own cache, read offline: everything but the network is real.
    commits = {"main": "0123456789abcdef0123456789abcdef01234567", "refs/pr/1": "f" * 40}
    cache = tmp_path / "hub"
    for revision, commit in commits.items():
        checkpoint.save(cache / "models--someone--cube" / "snapshots" / commit / "parts")
        snapshot = cache / "models--someone--cube" / "snapshots" / commit
        shutil.copy(snapshot / "parts" / "shape_gpt.safetensors", snapshot / "shape_gpt.safetensors")
        reference = cache / "models--someone--cube" / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    named = "someone/cube@refs/pr/1:parts/shape_tokenizer.safetensors"
    convert_cube3d("someone/cube", named, tmp_path / "converted")
    files = provenance(tmp_path / "converted")["converted_from"]["files"]
    assert (files["gpt"]["hub_id"], files["gpt"]["commit"]) == ("someone/cube", commits["main"])
    assert (files["tokenizer"]["hub_id"], files["tokenizer"]["commit"]) == ("someone/cube", commits["refs/pr/1"])
    card = (tmp_path / "converted" / "README.md").read_text()
    assert "base_model: someone/cube\n" in card and f"| someone/cube@{commits['refs/pr/1']} |" in card
    convert_cube3d(f"someone/cube@{commits['main']}", named, tmp_path / "pinned")
    assert provenance(tmp_path / "pinned")["converted_from"]["files"]["gpt"]["commit"] == commits["main"]
    local = convert(checkpoint, tmp_path / "local")
    assert provenance(local)["converted_from"]["files"]["gpt"]["commit"] is None


def test_revisions_that_are_absent_and_names_that_lead_out_of_the_repository(tmp_path, monkeypatch):
    def message(source: str) -> str:
        with pytest.raises(Omni123Error) as caught:
            convert_cube3d(source, source, tmp_path / "converted")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for source in ("org/name:../x", "org/name:/etc/passwd", "org/name:a//b", "org/name@../x", "org/name@v1:./x"):
        assert "leads out of 'org/name'" in message(source)
    assert "no file" in message("org/name@:x") and "no file" in message("org/name\n")

    def absent(repository, name, revision):
        raise RevisionNotFoundError(
            "404\nnot found", response=SimpleNamespace(headers={}, request=None, status_code=404)
        )

    monkeypatch.setattr("omni123_hf.conversion.source_file.hf_hub_download", absent)
    assert "'org/name' has no revision 'v9' on the Hub" in message("org/name@v9")


def test_a_hub_that_cannot_be_reached(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Omni123Error, match="cannot download 'shape_gpt.safetensors' of 'someone/absent-cube'"):
        convert_cube3d("someone/absent-cube", "someone/absent-cube", tmp_path / "converted")


@pytest.fixture
def clip_folder(tmp_path):
    """A random CLIP of the width of the test checkpoints, with its tokenizer."""
    torch.manual_seed(0)
    tokenizer = build_clip_tokenizer(["a round wooden table", "a tall red vase"], vocab_size=80, max_length=16)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=V05.text,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        eos_token_id=tokenizer.eos_token_id,
    )
    CLIPTextModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_a_text_encoder_is_copied_into_the_folder(checkpoint, tmp_path, clip_folder):
    folder = convert(checkpoint, tmp_path, text_encoder=str(clip_folder))
    pipeline = Omni123TextTo3DPipeline.from_pretrained(folder)
    # The encoder has 12 positions; its tokenizer's own limit of 16 would overrun them.
    assert pipeline.encode_prompt(["a vase"]).text_embeds.shape == (1, 12, V05.text)
    assert "`clip`" in (folder / "README.md").read_text()
    assert str(clip_folder) not in (folder / "provenance.json").read_text()


def test_text_encoders_that_do_not_fit(checkpoint, tmp_path, clip_folder):
    gpt, tokenizer = CubeCheckpoint.random(replace(V05, text=24)).save(tmp_path / "wide")

    def message(name) -> str:
        with pytest.raises(Omni123Error) as caught:
            convert_cube3d(gpt, tokenizer, tmp_path / "converted", text_encoder=str(name))
        assert "\n" not in str(caught.value) and not (tmp_path / "converted").exists()
        return str(caught.value)

    assert "is 20 wide and this GPT reads text of width 24" in message(clip_folder)
    assert "cannot load --text-encoder" in message(tmp_path / "absent")
    weights = clip_folder / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop(max(tensors))
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "lacks 1 tensors" in message(clip_folder)
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert "cannot load --text-encoder" in message(clip_folder)
    # A pickle could run code: it is not read, though it holds all that is wanted.
    weights.unlink()
    torch.save(tensors, clip_folder / "pytorch_model.bin")
    assert "weights as safetensors" in message(clip_folder)
    bert = BertConfig(vocab_size=30, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(bert).save_pretrained(tmp_path / "bert")
    assert "--text-encoder" in message(tmp_path / "bert")


def test_code_beside_a_tokenizer_is_not_run(checkpoint, tmp_path, clip_folder, monkeypatch):
    # transformers asks on the terminal unless told; here somebody would say yes.
    monkeypatch.setattr("builtins.input", lambda *question: "y")
    settings = json.loads((clip_folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "Mine"
    settings["auto_map"] = {"AutoTokenizer": ["mine.Mine", None]}
    (clip_folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (clip_folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    gpt, tokenizer = checkpoint.save(tmp_path / "source")
    try:
        convert_cube3d(gpt, tokenizer, tmp_path / "converted", text_encoder=str(clip_folder))
    except Omni123Error as error:
        assert "cannot load --text-encoder" in str(error)
    assert not (tmp_path / "ran").exists()


def test_the_command_that_adds_a_text_encoder(tmp_path):
    command = text_encoder_command("a b.safetensors", "org/name", Path("out"), Path("config.json"), "float16")
    assert command == (
        "omni123 convert cube3d --gpt 'a b.safetensors' --tokenizer org/name --out out --config config.json "
        "--dtype float16 --text-encoder openai/clip-vit-large-patch14 --overwrite"
    )


@pytest.mark.parametrize(
    ("release", "gpt_totals", "tokenizer_totals"),
    [
        ("Roblox/cube3d-v0.1", (609, 1_793_525_376), (483, 272_986_273)),
        ("Roblox/cube3d-v0.5", (611, 1_793_531_520), (483, 273_772_705)),
    ],
)
def test_the_public_releases_are_read_from_their_shapes(release, gpt_totals, tokenizer_totals):
    is_v05 = release.endswith("v0.5")
    sizes = CubeSizes(
        width=1536,
        heads=12,
        inner=6144,
        duals=23,
        singles=1,
        text=768,
        has_box=is_v05,
        codes=16384,
        code_dim=32,
        latents=1024 if is_v05 else 512,
        tokenizer_width=768,
        tokenizer_heads=12,
        tokenizer_inner=3072,
        encoder_layers=13,
        cross_layers=(0, 2, 4, 8),
        decoder_layers=24,
        frequencies=128,
    )
    gpt, tokenizer = gpt_shapes(sizes), tokenizer_shapes(sizes)
    for shapes, totals in ((gpt, gpt_totals), (tokenizer, tokenizer_totals)):
        assert (len(shapes), sum(prod(shape) for shape in shapes.values())) == totals
    config, shape_config, _ = read_configs(gpt, tokenizer, CubeSettings())
    key = (
        config.hidden_size,
        config.num_dual_layers,
        config.num_single_layers,
        shape_config.num_codes,
        shape_config.code_dim,
        shape_config.num_latents,
        config.use_bbox,
    )
    assert RELEASES[key] == release
    assert (config.num_attention_heads, config.head_dim, config.mlp_ratio) == (12, 128, 4.0)
    with torch.device("meta"):
        ours = sum(value.numel() for value in Omni123ForConditionalGeneration(config).parameters())
        assert sum(value.numel() for value in Omni123ShapeTokenizer(shape_config).parameters()) == tokenizer_totals[1]
    # The source also has three special rows in its head, and the projection of the codes, which is baked into the table.
    assert ours + 3 * 1536 + (32 * 1536 + 1536) == gpt_totals[1]
