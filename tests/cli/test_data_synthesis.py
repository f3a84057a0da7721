"""`omni123 data synthesize` as a user runs it, and `omni123 data prepare` on what it leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from test_data import SETTINGS, call

from omni123_hf.cli.data_synthesis import check_template
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


sys.path[:0] = [str(Path(__file__).parents[1] / "data" / name) for name in ("captioning", "synthesis")]
from chat_server import chat_server, says, sends  # noqa: E402
from scripted import CAPTIONS, MEDIUM, SHORT  # noqa: E402
from tiny_onnx import write_darkness_network  # noqa: E402
from tiny_vlm import tiny_clip  # noqa: E402

from omni123_hf.geometry.cameras import ALL_VIEWS  # noqa: E402


MADE = ("--licence", "CC-BY-4.0", "--attribution", "Made by a test")
PROMPTS = [
    {"prompt": "A tall red vase, 4k wallpaper", "category": "vase", "licence": "CC0-1.0", "page": 7},
    {"prompt": "a blue car", "captions": {"short": "blue car", "medium": ["a small blue car with four wheels"]}},
    {"prompt": "a wide mug"},
    {"prompt": "a city street at night"},
    {"prompt": "an extraordinary mechanical grandfather clock with hexagonal brass gears"},
]


@pytest.fixture
def checkpoint(tiny_pipeline_folder, monkeypatch) -> Path:
    """The tiny pipeline. Random weights decode to noise: here its codes become a rectangle on white, and a box or, for
    every other image, two boxes apart from each other."""
    from omni123_hf.pipelines import Omni123JointPipeline

    def images(self, codes):
        pixels = np.full((len(codes), 32, 32, 3), 255, dtype=np.uint8)
        for picture, row in zip(pixels, codes.tolist(), strict=True):
            picture[6:26, 16 - 4 - sum(row) % 8 : 20] = (40, 60, 150)
        return [Image.fromarray(picture) for picture in pixels]

    def shapes(self, codes, resolution):
        made.append(resolution)
        box = trimesh.creation.box((0.4 + sum(codes[0].tolist()) % 8 / 10, 1.0, 0.5)).subdivide().subdivide()
        apart = trimesh.util.concatenate([box, box.copy().apply_translation((3.0, 0, 0))])
        return [apart if len(made) == 3 else box], [None]

    made: list[int] = []
    monkeypatch.setattr(Omni123JointPipeline, "decode_images", images)
    monkeypatch.setattr(Omni123JointPipeline, "decode_shapes", shapes)
    return tiny_pipeline_folder


@pytest.fixture
def prompts(tmp_path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return file


def synthesize(out: Path, checkpoint: Path, *arguments: object) -> int:
    options = ("--checkpoint", checkpoint, "--resolution", 16, "--device", "cpu", "--quiet", *MADE)
    return call("synthesize", "--out", out, *options, *arguments)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What `data prepare` looks at: words, and meshes with their times."""
    files = sorted(path for path in folder.iterdir())
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns if f.suffix == ".ply" else 0) for f in files}


def test_prompts_become_a_source_and_that_becomes_a_data_set(checkpoint, prompts, tmp_path, capsys):
    out = tmp_path / "made"
    assert synthesize(out, checkpoint, "--prompts", prompts) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    for line in (
        ["curation", "4", "1"], ["prompt_scene", "1"], ["text_to_image", "3", "1"], ["prompt_unusable", "1"],
        ["image_to_3d", "3", "0"], ["quality", "2", "1"], ["silhouette_broken", "1"], ["recaption", "2", "0"],
    ):  # fmt: skip
        assert line in lines
    assert f"{out}: 2 objects, 3 rejected" in text and f"omni123 data prepare {out}" in text
    assert len((out / "rejected.jsonl").read_text().splitlines()) == 3
    assert json.loads((out / "synthesis.json").read_text())["objects"] == 2

    (tmp_path / "settings.yaml").write_text(SETTINGS)
    assert call("prepare", out, "--out", tmp_path / "set", "--config", tmp_path / "settings.yaml") == 0
    records = {record.category: record for record in AssetStore.open(tmp_path / "set").records}
    vase, car = records["vase"], records["object"]
    assert vase.captions == {"short": ["a tall red vase"], "medium": [], "long": []}
    assert car.captions["medium"] == ["a small blue car with four wheels"] and car.captions["short"] == ["blue car"]
    assert {(r.licence, r.attribution, r.source) for r in records.values()} == {
        ("CC-BY-4.0", "Made by a test", "made")
    }
    lineage = vase.attributes["columns"]["synthesis"]
    assert (lineage["prompt"], lineage["prompt_licence"], lineage["prompt_extra"]) == (
        "a tall red vase", "CC0-1.0", {"columns": {"page": 7}},
    )  # fmt: skip
    assert "image-to-3d" in lineage["steps"]["image_to_3d"]["identity"]["generator"]

    # The same again makes nothing again, and leaves the same source.
    before = contents(out / "assets")
    assert synthesize(out, checkpoint, "--prompts", prompts) == 0
    assert contents(out / "assets") == before
    # Another rule only rates again, and another licence reaches the source.
    lenient = ("--silhouette-connectivity", 0.1, "--licence", "MIT")
    assert synthesize(out, checkpoint, "--prompts", prompts, *lenient) == 0
    after = contents(out / "assets")
    assert len(after) == 6 and all(b'"MIT"' in content for name, (content, _) in after.items() if "json" in name)
    assert all(after[name] == value for name, value in before.items() if name.endswith(".ply"))


def test_a_run_goes_on_where_an_endpoint_stopped_it(checkpoint, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a tall red vase\na blue car\n")
    analysis = {
        "views": [{"view": name, "description": "A box."} for name in ALL_VIEWS],
        **dict.fromkeys(("orientation", "appearance", "geometry", "function", "origin"), "A box."),
    }
    other = "A brown wooden chair on four straight legs, its square seat below a tall slatted back."
    asked = [analysis, CAPTIONS | {"medium": [MEDIUM, other]}, SHORT]
    axes = dict.fromkeys(("geometric_consistency", "surface_clarity", "silhouette_connectivity"), "high")
    single, whole, good = {"single_object": "yes"}, {"cutout": "high"}, axes
    replies = [{"reason": "seen"} | reply for reply in (single, single, whole, good)] + asked
    with chat_server(*map(says, replies), sends(400, b"no such model")) as server:
        judge = ("--judge-endpoint", server.url, "--judge-model", "m")
        judged = [word for name in ("prompts", "mask", "quality") for word in ("--judged", name)]
        captions = ("--caption-endpoint", server.url, "--caption-model", "m")
        options = ("--prompts", tmp_path / "prompts.txt", *judge, *judged, *captions)
        out = tmp_path / "made"
        assert synthesize(out, checkpoint, *options) == 2
        assert "no such model" in capsys.readouterr().err and not (out / "assets").exists()
        count = len(server.requests)
        server.actions[:] = [says({"reason": "seen"} | reply) for reply in (whole, good)] + [*map(says, asked)]
        assert synthesize(out, checkpoint, *options) == 0
        assert len(server.requests) == count + 5
    words, _ = (json.loads(path.read_text()) for path in sorted((out / "assets").glob("*.json")))
    assert len(list((out / "assets").glob("*.ply"))) == 2
    assert words["captions"]["short"] == SHORT["short"] and words["category"] == "furniture"
    assert words["synthesis"]["steps"]["quality"]["facts"]["surface_clarity"] == 1.0


def test_captions_of_the_prompt_can_be_filtered(checkpoint, prompts, tmp_path, capsys):
    for part in tiny_clip():
        part.save_pretrained(tmp_path / "clip")
    clip = ("--alignment", "clip", "--alignment-model", tmp_path / "clip", "--alignment-threshold")
    assert synthesize(tmp_path / "all", checkpoint, "--prompts", prompts, "--limit", 1, *clip, -1) == 0
    (words,) = (json.loads(path.read_text()) for path in (tmp_path / "all" / "assets").glob("*.json"))
    (score,) = words["synthesis"]["alignment"]["short"]
    assert -1 < score < 1 and words["captions"]["short"] == ["a tall red vase"]
    capsys.readouterr()
    assert synthesize(tmp_path / "none", checkpoint, "--prompts", prompts, "--limit", 1, *clip, 1) == 1
    assert "caption_misaligned" in capsys.readouterr().out and not list((tmp_path / "none" / "assets").iterdir())


def test_prompts_of_our_generator(checkpoint, tmp_path, capsys):
    out, chosen = tmp_path / "x", ("--parametric", 2, "--category", "mug")
    # The tiny text encoder reads no more than a few words: a run without an object says so by its exit code.
    assert synthesize(out, checkpoint, *chosen) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "2 prompts, 2 of them usable" in text and "prompt_unusable 2" in text and "0 objects" in text
    assert not list((out / "assets").iterdir())


def test_a_network_for_the_background(checkpoint, prompts, tmp_path):
    pytest.importorskip("onnxruntime")
    remover = ("--background", "onnx", "--background-model", write_darkness_network(tmp_path / "net.onnx"))
    assert synthesize(tmp_path / "x", checkpoint, "--prompts", prompts, "--limit", 1, *remover) == 0
    (words,) = (json.loads(path.read_text()) for path in (tmp_path / "x" / "assets").glob("*.json"))
    assert words["synthesis"]["steps"]["background"]["identity"]["remover"].startswith("onnx u2net ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the two"),
        (["--prompts", "{file}", "--parametric", 3], "one of the two"),
        (["--prompts", "{file}", "--category", "chair"], "--category is for --parametric"),
        (["--parametric", 3, "--prompt-licence", "MIT"], "--prompt-licence is for --prompts"),
        (["--parametric", 3, "--category", "unicorn"], "categories"),
        (["--prompts", "{file}.none"], "cannot read the prompts"),
        (["--prompts", "{file}", "--background", "magic"], "border-flood or onnx"),
        (["--prompts", "{file}", "--background", "onnx"], "needs --background-model"),
        (["--prompts", "{file}", "--background-model", "x"], "are for --background onnx"),
        (["--prompts", "{file}", "--judge-model", "m"], "--judge-endpoint"),
        (["--prompts", "{file}", "--judged", "mask"], "give --judge-endpoint"),
        (
            ["--prompts", "{file}", "--judge-endpoint", "http://x/v1", "--judge-model", "m", "--judged", "taste"],
            "among",
        ),
        (
            ["--prompts", "{file}", "--judge-endpoint", "http://x/v1", "--judge-model", "m", "--surface-clarity", 0.1],
            "the judge decides quality",
        ),
        (["--prompts", "{file}", "--caption-model", "m"], "--caption-endpoint"),
        (["--prompts", "{file}", "--prompt-template", "a thing"], "--prompt-template"),
        (["--prompts", "{file}", "--licence", " "], "state them"),
        (["--prompts", "{file}", "--checkpoint", "nowhere"], "unknown checkpoint"),
        (["--prompts", "{file}", "--resolution", 2], "resolution"),
        (["--prompts", "{file}", "--device", "tpu"], "no device"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tiny_pipeline_folder, prompts, tmp_path, capsys, arguments, message):
    words = [str(argument).format(file=prompts) if "{file}" in str(argument) else argument for argument in arguments]
    assert synthesize(tmp_path / "x", tiny_pipeline_folder, *words) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "x").exists()


def test_a_folder_of_something_else_is_left_alone(tiny_pipeline_folder, prompts, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "chair.ply").write_text("mine")
    assert synthesize(tmp_path / "full", tiny_pipeline_folder, "--prompts", prompts) == 2
    assert "holds no synthesis" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["chair.ply"]


@pytest.mark.parametrize("template", ["{prompt", "{}", "{prompt} {light}", "a mug", "{prompt!x}"])
def test_templates_take_the_prompt_and_nothing_else(template):
    check_template("{prompt}, plain background")
    with pytest.raises(Omni123Error, match="needs {prompt}"):
        check_template(template)
