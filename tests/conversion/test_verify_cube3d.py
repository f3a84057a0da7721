"""Converted models against a second implementation of Cube 3D, and what the verification refuses to pass."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cube3d_checkpoint import UNSEEN, V05, CubeCheckpoint
from cube3d_reference import (
    decoded,
    encoded,
    gpt_logits,
    occupancy,
    save_parity_folder,
    token_table,
)
from safetensors.torch import load_file, save_file

from omni123_hf.conversion.verify_cube3d import grid_points, verify_cube3d
from omni123_hf.errors import Omni123Error


OUTPUTS = {
    "logits",
    "baked_token_table",
    "encoder_out",
    "quantized",
    "indices",
    "decoded_latents",
    "occupancy",
    "random_latents",
    "random_occupancy",
    "grid_occupancy",
}
STORED = Path(os.environ.get("OMNI123_PARITY", Path(__file__).parents[3] / "shared" / "parity" / "cube3d_v05_tiny"))
needs_stored = pytest.mark.skipif(
    not (STORED / "io.safetensors").is_file(),
    reason="no outputs of the original here: set OMNI123_PARITY to a folder that holds them",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_parity_folder(tmp_path / "parity", CubeCheckpoint.random(V05))


def change(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces stored tensors; None removes one."""
    io = {**load_file(folder / "io.safetensors"), **changes}
    save_file({name: tensor for name, tensor in io.items() if tensor is not None}, folder / "io.safetensors")


@pytest.mark.parametrize("name", UNSEEN)
def test_sizes_never_seen_compute_what_a_second_implementation_computes(name, tmp_path):
    report = verify_cube3d(save_parity_folder(tmp_path / "parity", CubeCheckpoint.random(UNSEEN[name], seed=3)))
    assert report["passed"] and report["max"] < 1e-5
    assert set(report["errors"]) == OUTPUTS and report["errors"]["indices"] == 0
    assert report["not_checked"] == []


def test_theta_and_epsilon_of_the_configuration_reach_the_models(tmp_path):
    checkpoint = CubeCheckpoint.random(replace(V05, singles=2))
    folder = save_parity_folder(tmp_path / "parity", checkpoint)
    io = load_file(folder / "io.safetensors")
    other = gpt_logits(
        checkpoint.gpt, io["baked_token_table"], V05.heads, io["text"], io["bbox"], io["ids"], theta=50.0
    )
    change(folder, logits=other)
    assert not verify_cube3d(folder)["passed"]
    settings = checkpoint.sizes.config()
    settings["gpt_model"]["rope_theta"] = 50
    (folder / "config.json").write_text(json.dumps(settings))
    assert verify_cube3d(folder)["passed"]
    settings["gpt_model"]["eps"] = 0.1
    (folder / "config.json").write_text(json.dumps(settings))
    errors = verify_cube3d(folder)["errors"]
    assert errors["logits"] > 1e-3 and errors["decoded_latents"] < 1e-5


@needs_stored
def test_the_second_implementation_is_the_original():
    gpt, tokenizer, io = (load_file(STORED / f"{name}.safetensors") for name in ("shape_gpt", "shape_tokenizer", "io"))
    settings = json.loads((STORED / "config.json").read_text())
    heads, tokenizer_heads = settings["gpt_model"]["n_head"], settings["shape_model"]["num_heads"]
    table = token_table(gpt, tokenizer)
    latents, ids = encoded(tokenizer, tokenizer_heads, io["points"], io["normals"])
    random = decoded(tokenizer, tokenizer_heads, io["random_ids"])
    for name, ours in {
        "baked_token_table": table,
        "logits": gpt_logits(gpt, table, heads, io["text"], io["bbox"], io["ids"]),
        "encoder_out": latents,
        "random_latents": random,
        "random_occupancy": occupancy(tokenizer, tokenizer_heads, random, io["queries"]),
    }.items():
        assert (ours - io[name]).abs().max() < 1e-5, name
    assert torch.equal(ids, io["indices"])


@needs_stored
def test_stored_outputs_of_the_original_are_met():
    report = verify_cube3d(STORED)
    assert report["passed"] and report["max"] < 1e-4 and report["errors"]["indices"] == 0
    assert set(report["errors"]) == OUTPUTS and report["not_checked"] == []


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_every_stored_output_can_fail(folder, name):
    tensor = load_file(folder / "io.safetensors")[name]
    changed = tensor.clone().flatten()
    changed[-1] += 1 if name == "indices" else 0.01
    change(folder, **{name: changed.view_as(tensor)})
    report = verify_cube3d(folder)
    assert not report["passed"]
    assert report["errors"][name] == (1 if name == "indices" else pytest.approx(0.01, rel=1e-2))


def test_a_changed_weight_fails(folder):
    weights = load_file(folder / "shape_gpt.safetensors")
    weights["transformer.single_blocks.0.attn.q_norm.weight"][0] += 0.5
    save_file(weights, folder / "shape_gpt.safetensors")
    report = verify_cube3d(folder)
    assert not report["passed"] and report["errors"]["logits"] > 1e-3
    assert report["errors"]["random_latents"] < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_never_passes(folder, value):
    logits = load_file(folder / "io.safetensors")["logits"]
    logits[0, 0, 0] = value
    change(folder, logits=logits)
    report = verify_cube3d(folder, tolerance=1e30)
    assert report["passed"] is False and report["errors"]["logits"] is None and report["max"] is None
    json.dumps(report, allow_nan=False)


def test_only_what_is_stored_is_reported_and_unused_inputs_are_listed(folder):
    io = load_file(folder / "io.safetensors")
    kept = ("text", "bbox", "ids", "logits", "queries", "random_ids")
    save_file({name: io[name] for name in kept}, folder / "io.safetensors")
    report = verify_cube3d(folder)
    assert set(report["errors"]) == {"logits"} and report["passed"] is True
    assert report["not_checked"] == ["queries", "random_ids"] and report["unknown"] == []


def test_what_takes_no_part_and_is_no_input_never_passes(folder):
    io = load_file(folder / "io.safetensors")
    change(folder, mystery=torch.zeros(1))
    report = verify_cube3d(folder)
    assert report["passed"] is False and report["unknown"] == report["not_checked"] == ["mystery"]
    assert report["max"] < 1e-5
    change(folder, mystery=None, logits=None, logits_2=io["logits"] + 100)
    report = verify_cube3d(folder)
    assert report["passed"] is False and report["unknown"] == ["logits_2"] and "logits" not in report["errors"]


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        ("text", ["logits (lacks text)"]),
        ("ids", ["logits (lacks ids)"]),
        ("queries", ["occupancy (lacks queries)", "random_occupancy (lacks queries)"]),
        ("normals", ["encoder_out (lacks normals)", "indices (lacks normals)", "quantized (lacks normals)"]),
        ("indices", ["decoded_latents (lacks indices)", "occupancy (lacks indices)"]),
        ("random_ids", ["random_latents (lacks random_ids)", "grid_occupancy (lacks random_ids)"]),
    ],
)
def test_an_output_without_its_inputs_is_an_error_that_names_them(folder, dropped, words):
    change(folder, **{dropped: None})
    with pytest.raises(Omni123Error) as caught:
        verify_cube3d(folder)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_outputs_without_a_value_do_not_pass_as_equal(folder):
    io = load_file(folder / "io.safetensors")
    nothing = {name: io[name][:0].contiguous() for name in ("points", "normals", "indices")}
    save_file(nothing, folder / "io.safetensors")
    with pytest.raises(Omni123Error, match="indices is stored without a value"):
        verify_cube3d(folder)


def test_boxes_are_left_out_when_they_or_the_model_lack_them(tmp_path):
    checkpoint = CubeCheckpoint.random(V05)
    folder = save_parity_folder(tmp_path / "with", checkpoint)
    io = load_file(folder / "io.safetensors")
    without = gpt_logits(checkpoint.gpt, io["baked_token_table"], V05.heads, io["text"], torch.zeros(2, 3), io["ids"])
    change(folder, bbox=None, logits=without)
    assert verify_cube3d(folder)["passed"]

    folder = save_parity_folder(tmp_path / "without", CubeCheckpoint.random(UNSEEN["v0.1"]))
    change(folder, bbox=torch.ones(2, 3))
    report = verify_cube3d(folder)
    assert report["passed"] and report["not_checked"] == ["bbox"]


def test_other_forms_of_the_same_outputs(folder):
    """Codes without specials, the class token with the latents, codes instead of their projection, flat grids."""
    from cube3d_reference import code_book

    tokenizer = load_file(folder / "shape_tokenizer.safetensors")
    io = load_file(folder / "io.safetensors")
    quantized = torch.nn.functional.embedding(io["indices"], code_book(tokenizer))
    change(
        folder,
        logits=io["logits"][..., : V05.codes].contiguous(),
        quantized=quantized,
        occupancy=io["occupancy"][..., None],
        grid_occupancy=io["grid_occupancy"].flatten(1),
    )
    report = verify_cube3d(folder)
    assert report["passed"] and set(report["errors"]) == OUTPUTS


def test_the_grid_is_in_the_order_of_its_axes():
    points = grid_points(3)[0]
    assert points[1].tolist() == pytest.approx([-1.05, -1.05, 0.0])
    assert points[9].tolist() == pytest.approx([0.0, -1.05, -1.05])


def test_folders_and_files_that_cannot_be_compared(folder, tmp_path):
    def message(path=folder, **options) -> str:
        with pytest.raises(Omni123Error) as caught:
            verify_cube3d(path, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no folder" in message(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "lacks shape_gpt.safetensors, shape_tokenizer.safetensors, io.safetensors" in message(tmp_path / "empty")
    for tolerance in (-1.0, float("nan"), float("inf")):
        assert "tolerance" in message(tolerance=tolerance)
    io = load_file(folder / "io.safetensors")
    change(folder, logits=io["logits"][:, :-1].contiguous())
    assert "logits is stored as (2, 5, 16) and these weights give (2, 6, 16)" in message()
    change(folder, logits=io["logits"], text=io["text"][..., :-1].contiguous())
    assert "text_embeds" in message()
    change(folder, text=io["text"], random_ids=io["random_ids"] + 1000)
    assert "io.safetensors" in message() or "shape tokens" in message()
    save_file({"mystery": torch.zeros(1), "text": io["text"]}, folder / "io.safetensors")
    assert "no output that can be compared; it has mystery, text" in message()
    (folder / "io.safetensors").write_bytes(b"nothing")
    assert "no safetensors file" in message()
