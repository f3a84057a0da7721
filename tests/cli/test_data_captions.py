"""Captions and alignment from the command line: a served model, models of this machine, and what cannot work together."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import trimesh
from test_data import SETTINGS, call

from omni123_hf.cli.data_captions import CaptionOptions
from omni123_hf.data.inputs import read_source
from omni123_hf.data.preparation_config import load_config
from omni123_hf.data.prepare_asset import caption_views, prepare_asset
from omni123_hf.data.records import AssetRecord
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.normalization import normalize_mesh


sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "captioning"))
from chat_server import chat_server, says  # noqa: E402
from scripted import CAPTIONS, MEDIUM, SHORT  # noqa: E402
from tiny_vlm import terse_llava, tiny_clip  # noqa: E402

from omni123_hf.data.captioning.alignment import ClipScorer  # noqa: E402
from omni123_hf.geometry.cameras import ALL_VIEWS  # noqa: E402


WORDS = {"drum": "a drum", "ball": "a wooden chair with four legs and a high back"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two meshes with captions, settings, a tiny CLIP and a tiny vision-language model."""
    folder = tmp_path_factory.mktemp("found")
    for name, mesh in (("drum", trimesh.creation.cylinder(0.5, 1.0)), ("ball", trimesh.creation.icosphere(2))):
        mesh.export(folder / f"{name}.glb")
        (folder / f"{name}.json").write_text(json.dumps({"caption": WORDS[name], "licence": "CC0-1.0"}))
    (folder / "settings.yaml").write_text(SETTINGS)
    for name, parts in (("clip", tiny_clip()), ("vlm", terse_llava())):
        for part in parts:
            part.save_pretrained(folder / "models" / name)
    return folder


def prepare(found: Path, out: Path, *arguments: object) -> int:
    cache = ("--caption-cache", out.parent / "cache")
    return call("prepare", found, "--out", out, "--config", found / "settings.yaml", *cache, *arguments)


def test_given_captions_are_filtered_by_a_clip_of_this_machine(found, tmp_path, capsys):
    clip = found / "models" / "clip"
    config = load_config("default", found / "settings.yaml")
    scorer = ClipScorer.from_pretrained(clip)
    scores = {}
    for asset in read_source(str(found)):
        mesh, _ = normalize_mesh(asset.load())
        scores[asset.id] = scorer.score(caption_views(mesh, 384, config.supersample), WORDS[Path(asset.path).stem])
    options = ("--alignment", "clip", "--alignment-model", clip, "--alignment-threshold", sum(scores.values()) / 2)
    assert prepare(found, tmp_path / "x", *options) == 0
    assert "caption_misaligned" in capsys.readouterr().out
    (kept,) = AssetStore.open(tmp_path / "x").records
    assert kept.id == max(scores, key=scores.__getitem__)
    fit = kept.attributes["qa"]["alignment"]
    assert fit["threshold"] == options[-1] and fit["scorer"]["model"].startswith("clip@")
    (score,) = (each for level in fit["scores"].values() for each in level)
    assert score == pytest.approx(scores[kept.id], abs=1e-5)
    assert call("stats", tmp_path / "x", "--json") == 0
    assert json.loads(capsys.readouterr().out)["quality"]["alignment"]["max"] == score


def drum_as(options: CaptionOptions, found: Path) -> AssetRecord:
    """The drum, prepared with what the options name, as a worker gets it."""
    options.check()
    (asset,) = read_source(str(found / "drum.glb"))
    captioner = pickle.loads(pickle.dumps(options.captioner()))
    return prepare_asset(asset, load_config("default", found / "settings.yaml"), captioner=captioner).record


def test_a_random_model_of_this_machine_is_asked_and_its_nonsense_rejected(found, tmp_path):
    model = str(found / "models" / "vlm")
    with pytest.raises(RejectedError, match="after 2 repair turns") as caught:
        drum_as(CaptionOptions(transformers=model, device="cpu", cache=tmp_path), found)
    assert caught.value.reason == "caption_invalid"
    (answer,) = tmp_path.rglob("*.json")
    assert json.loads(answer.read_text())["inputs"]["model"].startswith("vlm@")


@pytest.mark.slow
def test_the_same_through_a_worker(found, tmp_path, capsys):
    model = ("--caption-transformers", found / "models" / "vlm", "--caption-device", "cpu")
    assert prepare(found / "drum.glb", tmp_path / "x", *model, "--config", found / "settings.yaml") == 2
    assert "every asset was rejected (caption_invalid 1)" in capsys.readouterr().err


def test_an_endpoint_writes_and_judges(found, tmp_path):
    analysis = {
        "views": [{"view": name, "description": "A drum."} for name in ALL_VIEWS],
        **dict.fromkeys(("orientation", "appearance", "geometry", "function", "origin"), "A drum."),
    }
    other = "A brown wooden chair on four straight legs, its square seat below a tall slatted back."
    captions = CAPTIONS | {"medium": [MEDIUM, other]}
    poor, good = ({"reason": "as seen", "score": score} for score in (2, 4))
    replies = [says(reply) for reply in (analysis, captions, SHORT, *[good] * 3, poor, good, poor)]
    with chat_server(*replies) as server:
        options = CaptionOptions(
            server.url, "m", response_format="json_object", cache=tmp_path, alignment="judge",
            alignment_model="judge", alignment_threshold=0.6,
        )  # fmt: skip
        record = drum_as(options, found)
        asked = [request for _, _, request in server.requests]
    assert [each["model"] for each in asked] == ["m"] * 3 + ["judge"] * 6
    assert {each["response_format"]["type"] for each in asked} == {"json_object"}
    assert record.captions == {"short": SHORT["short"], "medium": [other], "long": []}
    fit = record.attributes["qa"]["alignment"]
    assert fit["scores"]["short"] == [0.8, 0.8, 0.8] and "judge" in fit["scorer"]["judge"]
    assert record.attributes["caption_source"] == "model"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "m"}, "both --caption-endpoint and --caption-model"),
        ({"endpoint": "http://x/v1"}, "both --caption-endpoint and --caption-model"),
        ({"endpoint": "http://x/v1", "model": "m", "transformers": "t"}, "two models"),
        ({"endpoint": "http://x/v1", "model": "m", "response_format": "xml"}, "json_schema, json_object, none"),
        ({"response_format": "none"}, "give --caption-endpoint"),
        ({"prompts": Path("p")}, "asked of a model"),
        ({"device": "cpu"}, "a model that runs here"),
        ({"alignment_threshold": 0.1}, "need --alignment"),
        ({"alignment_model": "m"}, "need --alignment"),
        ({"alignment": "taste", "alignment_threshold": 0.1}, "clip or judge"),
        ({"alignment": "clip", "alignment_model": "m"}, "from -1 to 1"),
        ({"alignment": "clip", "alignment_threshold": 0.1}, "needs --alignment-model"),
        ({"alignment": "judge", "alignment_threshold": 3.0, "transformers": "t"}, "from 0 to 1"),
        ({"alignment": "judge", "alignment_threshold": 0.5}, "needs a model that judges"),
        (
            {"alignment": "judge", "alignment_threshold": 0.5, "transformers": "t", "alignment_model": "m"},
            "both --caption-endpoint",
        ),
    ],
)
def test_options_that_contradict_each_other_or_do_nothing_are_refused(options, message):
    with pytest.raises(Omni123Error, match=message):
        CaptionOptions(**options).check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--caption-transformers", "t", "--workers", 2], "--workers 1"),
        (["--caption-transformers", "t", "--engine", "ray"], "not for --engine ray"),
        (
            ["--alignment", "clip", "--alignment-model", "m", "--alignment-threshold", 0, "--engine", "ray"],
            "--engine ray",
        ),
        (["--caption-transformers", "t", "--captions", "template"], "leaves none"),
        (["--caption-transformers", "{found}/models/clip"], "image-text-to-text"),
        (
            ["--alignment", "clip", "--alignment-model", "{found}", "--alignment-threshold", "0.2"],
            "as a CLIP model",
        ),
    ],
)
def test_what_cannot_work_is_one_line_and_writes_nothing(found, tmp_path, capsys, arguments, message):
    words = [str(argument).format(found=found) for argument in arguments]
    assert prepare(found, tmp_path / "x", *words) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "x").exists()
