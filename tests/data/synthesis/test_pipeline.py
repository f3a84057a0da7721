"""Steps over items: nothing is done twice, nothing bad stops the run, changed settings redo what depends on them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from doubles import Painter, Sculptor, steps
from scripted import ANALYSIS, CAPTIONS, SHORT, ScriptedBackend, chair_captioner

from omni123_hf.data.captioning.backends import BackendError
from omni123_hf.data.captioning.cache import JsonCache
from omni123_hf.data.captioning.judge import Judge
from omni123_hf.data.captioning.runner import CachedCaptioner
from omni123_hf.data.inputs import read_source
from omni123_hf.data.preparation_config import MINI
from omni123_hf.data.prepare import prepare_dataset
from omni123_hf.data.synthesis.background import BorderFlood
from omni123_hf.data.synthesis.curation import PromptCurator
from omni123_hf.data.synthesis.export import write_source
from omni123_hf.data.synthesis.pipeline import SynthesisPipeline
from omni123_hf.data.synthesis.prompts import Prompt, parametric_prompts
from omni123_hf.data.synthesis.quality import MeasuredQuality
from omni123_hf.data.synthesis.steps import BackgroundStep
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import ALL_VIEWS


TEXTS = ["a red box", "a wide crate", "a cut off cupboard", "a nothing jar", "a floating shelf", "a tall chest"]
PROMPTS = [Prompt(text, "test", "CC0-1.0", "box") for text in TEXTS]
GOOD = {"a red box", "a wide crate", "a tall chest"}
REASONS = {"mask_truncated": 1, "no_surface": 1, "silhouette_broken": 1}


def reasons(folder) -> dict[str, str]:
    lines = (folder / "rejected.jsonl").read_text().splitlines()
    return {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}


def test_good_items_end_as_assets_and_bad_ones_in_quarantine(tmp_path):
    _, rejected = PromptCurator().curate([Prompt("a city", "test", "CC0-1.0")])
    seen, begun = [], []
    pipeline = SynthesisPipeline(tmp_path, steps())
    report = pipeline.run(PROMPTS, rejected, lambda *each: seen.append(each), lambda *each: begun.append(each))
    assert (report.finished, report.rejected) == (3, REASONS | {"prompt_scene": 1})
    assert seen[-1][:2] == (6, 6) and [state.rejected is None for *_, state in seen].count(True) == 3
    assert [(item.prompt.text, step.name) for item, step in begun[:5]] == [
        ("a red box", s.name) for s in pipeline.steps
    ]
    assert [(step.name, step.passed, step.rejected) for step in report.steps] == [
        ("curation", 6, {"prompt_scene": 1}), ("text_to_image", 6, {}), ("background", 5, {"mask_truncated": 1}),
        ("image_to_3d", 4, {"no_surface": 1}), ("quality", 3, {"silhouette_broken": 1}), ("recaption", 3, {}),
    ]  # fmt: skip
    assert set(reasons(tmp_path).values()) == {*REASONS, "prompt_scene"}
    assets = pipeline.assets(PROMPTS, "CC0-1.0", "made by a test")
    assert {a.attributes["prompt"] for a in assets} == GOOD
    for asset in assets:
        assert asset.category == "box" and asset.load().is_watertight
        assert list(asset.attributes["steps"]) == [s.name for s in pipeline.steps]
        assert asset.attributes["captions"]["captioner"] == "prompt"
        assert asset.captions == {"short": [asset.attributes["prompt"]], "medium": [], "long": []}
    with pytest.raises(Omni123Error, match="licence"):
        pipeline.assets(PROMPTS, "", "x")


def test_assets_are_prepared_like_any_others(tmp_path):
    pipeline = SynthesisPipeline(tmp_path / "synthesis", steps())
    pipeline.run(PROMPTS[:2])
    assets = pipeline.assets(PROMPTS, "CC0-1.0", "made by a test")
    config = replace(MINI, surface_points=64, queries=128, view_size=16, flood_resolution=32)
    store = prepare_dataset(assets, tmp_path / "store", config=config, show_progress=False)
    assert [(r.source, r.licence, r.category) for r in store.records] == [("synthesis", "CC0-1.0", "box")] * 2
    assert store.records[0].attributes["prompt"] in GOOD


def test_a_rerun_does_nothing_and_a_stopped_run_goes_on(tmp_path):
    painter, sculptor = Painter(), Sculptor()
    SynthesisPipeline(tmp_path, steps(painter, sculptor)).run(PROMPTS[:3])
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if "items" in path.parts}
    assert len(painter.calls) == 3 and sculptor.calls == 2
    report = SynthesisPipeline(tmp_path, steps(painter, sculptor)).run(PROMPTS[:3])
    assert len(painter.calls) == 3 and sculptor.calls == 2 and report.finished == 2
    assert first == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if "items" in path.parts}
    SynthesisPipeline(tmp_path, steps(painter, sculptor)).run(PROMPTS)
    assert painter.calls == TEXTS
    assert not [p for p in tmp_path.rglob(".*")]


def test_a_changed_step_is_run_again_with_all_after_it(tmp_path):
    painter, sculptor = Painter(), Sculptor()
    SynthesisPipeline(tmp_path, steps(painter, sculptor)).run(PROMPTS)
    strict = MeasuredQuality(surface_clarity=0.9)
    changed = SynthesisPipeline(tmp_path, steps(painter, sculptor, rater=strict))
    assert changed.assets(PROMPTS, "x", "y") == []  # what was made under other settings is not handed out
    report = changed.run(PROMPTS)
    assert report.rejected["surface_unclear"] == 4  # the axes are asked in their order
    assert len(painter.calls) == 6 and sculptor.calls == 5
    report = SynthesisPipeline(tmp_path, steps(painter, sculptor)).run(PROMPTS)
    assert (report.finished, report.rejected) == (3, REASONS) and len(painter.calls) == 6
    without = [step for step in steps() if step.name != "quality"]
    assert len(SynthesisPipeline(tmp_path, without).assets(PROMPTS, "x", "y")) == 3


def test_words_of_a_prompt_decide_its_captions_and_nothing_else(tmp_path):
    painter, known = Painter(), {"short": ["box"], "medium": [], "long": []}
    SynthesisPipeline(tmp_path, steps(painter)).run(PROMPTS[:1])
    prompts = [replace(PROMPTS[0], category="crate", extra={"captions": known}, licence="MIT")]
    pipeline = SynthesisPipeline(tmp_path, steps(painter))
    assert pipeline.assets(prompts, "x", "y") == []
    pipeline.run(prompts)
    (asset,) = pipeline.assets(prompts, "x", "y")
    assert asset.captions == known and asset.category == "crate" and len(painter.calls) == 1


def test_a_run_that_is_stopped_within_a_step_does_not_take_its_leavings_for_the_old_result(tmp_path):
    class Stopped(BaseException):
        pass

    class Halfway(Painter):
        def __call__(self, prompts, seed):
            return super().__call__(prompts, seed + 3)

    SynthesisPipeline(tmp_path, steps()).run(PROMPTS[:1])
    (item,) = (tmp_path / "items").iterdir()
    first = (item / "image.png").read_bytes()
    other = steps(Halfway())
    other[0] = replace(other[0], generator_id="another")
    stopped = [StoppingStep(other[0], Stopped), *other[1:]]
    with pytest.raises(Stopped):
        SynthesisPipeline(tmp_path, stopped).run(PROMPTS[:1])
    assert (item / "image.png").read_bytes() != first
    painter = Painter()
    SynthesisPipeline(tmp_path, steps(painter)).run(PROMPTS[:1])
    assert (item / "image.png").read_bytes() == first and len(painter.calls) == 1


class StoppingStep:
    """A step that is stopped when its file is there and nobody has noted it."""

    def __init__(self, step, error):
        self.step, self.error = step, error
        self.name, self.identity, self.prompt_fields = step.name, step.identity, ()

    def run(self, item):
        self.step.run(item)
        raise self.error


def test_finished_items_are_a_folder_of_meshes_with_words(tmp_path):
    pipeline = SynthesisPipeline(tmp_path / "work", steps())
    pipeline.run(PROMPTS[:2])
    assets = pipeline.assets(PROMPTS, "CC0-1.0", "made by a test")
    write_source(assets, tmp_path / "source")
    read = {asset.id: asset for asset in read_source(str(tmp_path / "source"))}
    assert sorted(read) == sorted(asset.id.replace("/", "-") for asset in assets)
    for asset in assets:
        found = read[asset.id.replace("/", "-")]
        assert (found.captions, found.licence, found.category) == (asset.captions, "CC0-1.0", "box")
        assert found.attributes["columns"]["synthesis"] == json.loads(json.dumps(asset.attributes))
        assert np.allclose(found.load().bounds, asset.load().bounds)
    write_source(assets[:1], tmp_path / "source")
    assert len(read_source(str(tmp_path / "source"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "work"]


def test_another_seed_makes_other_objects(tmp_path):
    pipelines = [SynthesisPipeline(tmp_path, steps(), seed) for seed in (0, 1)]
    sizes = []
    for pipeline in pipelines:
        pipeline.run(PROMPTS[:2])
        sizes.append([a.load().extents[0] for a in pipeline.assets(PROMPTS, "x", "y")])
    assert not np.allclose(*sizes)
    assert pipelines[0].assets(PROMPTS, "x", "y") == []


def test_an_unexpected_error_is_quarantined_and_tried_again(tmp_path):
    broken = Painter({"crate": RuntimeError("out of memory")})
    report = SynthesisPipeline(tmp_path, steps(broken)).run(PROMPTS[:2])
    assert (report.finished, report.rejected) == (1, {"error:RuntimeError": 1})
    report = SynthesisPipeline(tmp_path, steps(Painter())).run(PROMPTS[:2])
    assert (report.finished, report.rejected) == (2, {})


def test_a_model_that_is_gone_stops_the_run(tmp_path):
    def gone(request):
        raise BackendError("the endpoint is gone")

    with pytest.raises(BackendError, match="gone"):
        SynthesisPipeline(tmp_path, steps(captioner=gone)).run(PROMPTS[:1])
    painter = Painter()
    assert SynthesisPipeline(tmp_path, steps(painter)).run(PROMPTS[:1]).finished == 1
    assert painter.calls == []


def test_the_result_is_captioned_and_not_the_prompt(tmp_path):
    replies = [ANALYSIS | {"views": [{"view": v, "description": "A box."} for v in ALL_VIEWS]}, CAPTIONS, SHORT]
    captioner = CachedCaptioner(chair_captioner(ScriptedBackend(*replies)), JsonCache(tmp_path / "cache"))
    pipeline = SynthesisPipeline(tmp_path, steps(captioner=captioner.caption))
    assert pipeline.run(PROMPTS[:1]).finished == 1
    (asset,) = pipeline.assets(PROMPTS[:1], "x", "y")
    assert asset.captions["short"] == SHORT["short"] and asset.category == "furniture"
    assert asset.attributes["captions"]["model"] == "scripted"


def test_prompts_of_our_generator_keep_their_captions(tmp_path):
    prompts = parametric_prompts(1, categories=["chair"])
    pipeline = SynthesisPipeline(tmp_path, steps())
    pipeline.run(prompts)
    (asset,) = pipeline.assets(prompts, "x", "y")
    assert asset.captions == prompts[0].extra["captions"] and asset.category == "chair"


def test_a_judge_may_refuse_a_cutout(tmp_path):
    backend = ScriptedBackend({"reason": "half is missing", "cutout": "low"})
    chain = steps()
    chain[1] = BackgroundStep(BorderFlood(), "border-flood", judge=Judge(backend))
    report = SynthesisPipeline(tmp_path, chain).run(PROMPTS[:1])
    assert report.rejected == {"mask_poor": 1}


def test_damaged_state_and_bad_arguments_are_named(tmp_path):
    pipeline = SynthesisPipeline(tmp_path, steps())
    pipeline.run(PROMPTS[:1])
    (tmp_path / "items" / PROMPTS[0].id / "state.json").write_text("{")
    with pytest.raises(Omni123Error, match="damaged"):
        pipeline.run(PROMPTS[:1])
    with pytest.raises(Omni123Error, match="no prompts"):
        pipeline.run([])
    with pytest.raises(Omni123Error, match="different names"):
        SynthesisPipeline(tmp_path, steps()[:1] * 2)
