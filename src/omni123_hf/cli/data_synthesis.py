"""`omni123 data synthesize`: prompts to meshes that `omni123 data prepare` takes (paper §3.5)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni123_hf.cli.data_captions import (
    Alignment,
    AlignmentModel,
    AlignmentThreshold,
    CaptionEndpoint,
    CaptionModel,
    CaptionOptions,
    CaptionPrompts,
    CaptionResponseFormat,
    CaptionTransformers,
    check_endpoint,
    endpoint_backend,
)
from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.data.captioning.judge import Judge
    from omni123_hf.data.synthesis.background import BackgroundRemover
    from omni123_hf.data.synthesis.curation import RejectedPrompt
    from omni123_hf.data.synthesis.pipeline import SynthesisReport
    from omni123_hf.data.synthesis.prompts import Prompt
    from omni123_hf.data.synthesis.quality import QualityRater
    from omni123_hf.data.synthesis.steps import Step

JUDGED = ("prompts", "mask", "quality")
# Items and answers, hidden from `data prepare`, which would take the meshes of rejected items for assets.
WORK = ".work"
ASSETS = "assets"


def register(app: typer.Typer) -> None:
    """Add the command to `omni123 data`."""
    app.command()(synthesize)


def synthesize(
    out: Annotated[Path, typer.Option("--out", help="Folder of the meshes; a stopped run goes on there.")],
    licence: Annotated[str, typer.Option("--licence", help="SPDX licence of the result, by the generators' terms.")],
    attribution: Annotated[str, typer.Option("--attribution", help="Credit line of the result.")],
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Prompts, one a line, or JSON lines (.jsonl) with prompt, category, captions."),
    ] = None,
    parametric: Annotated[
        int | None, typer.Option("--parametric", min=1, help="Take this many prompts from our own generator.")
    ] = None,
    categories: Annotated[
        list[str] | None,
        typer.Option("--category", help="Of --parametric: a category, more than once for several; all if not given."),
    ] = None,
    prompt_licence: Annotated[
        str, typer.Option("--prompt-licence", help="Licence of prompts that state none; kept in the lineage.")
    ] = "unknown",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Most prompts that are made into objects.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of prompts and generators.")] = 0,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="Bundled name, folder or Hub id: text to image, and image to 3D.")
    ] = "omni123-mini",
    prompt_template: Annotated[
        str, typer.Option("--prompt-template", help="What is asked of text to image, with {prompt} in it.")
    ] = "{prompt}",
    image_temperature: Annotated[
        float, typer.Option("--image-temperature", min=0.0, help="Of text to image; 0 is greedy.")
    ] = 0.7,
    shape_temperature: Annotated[
        float, typer.Option("--shape-temperature", min=0.0, help="Of image to 3D; 0 is greedy.")
    ] = 0.0,
    resolution: Annotated[
        int, typer.Option("--resolution", help="Points on a side of the surface extraction grid.")
    ] = 96,
    background: Annotated[
        str, typer.Option("--background", help="border-flood for plain backgrounds, or onnx.")
    ] = "border-flood",
    background_model: Annotated[
        Path | None, typer.Option("--background-model", help="ONNX file of a network that removes backgrounds.")
    ] = None,
    background_kind: Annotated[
        str | None,
        typer.Option(
            "--background-kind", help="How that network reads and answers: u2net (default), isnet, birefnet."
        ),
    ] = None,
    geometric_consistency: Annotated[
        float | None,
        typer.Option("--geometric-consistency", min=0.0, max=1.0, help="Least measured score; 0.4 if not given."),
    ] = None,
    surface_clarity: Annotated[
        float | None,
        typer.Option(
            "--surface-clarity", min=0.0, max=1.0, help="Least measured score; 0 if not given: meshes have no colours."
        ),
    ] = None,
    silhouette_connectivity: Annotated[
        float | None,
        typer.Option("--silhouette-connectivity", min=0.0, max=1.0, help="Least measured score; 0.95 if not given."),
    ] = None,
    judge_endpoint: Annotated[
        str | None, typer.Option("--judge-endpoint", help="Address of a vision-language model that judges.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option("--judge-model", help="Name of the model there.")] = None,
    judge_response_format: Annotated[
        str, typer.Option("--judge-response-format", help="json_schema, json_object or none.")
    ] = "json_schema",
    judged: Annotated[
        list[str] | None,
        typer.Option(
            "--judged",
            help="What it decides: prompts, mask, quality; more than once for several. quality if not given.",
        ),
    ] = None,
    caption_endpoint: CaptionEndpoint = None,
    caption_model: CaptionModel = None,
    caption_transformers: CaptionTransformers = None,
    caption_response_format: CaptionResponseFormat = "json_schema",
    caption_prompts: CaptionPrompts = None,
    alignment: Alignment = None,
    alignment_model: AlignmentModel = None,
    alignment_threshold: AlignmentThreshold = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda, of all models here; cuda where there is one.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Make new objects from prompts: text to image, cut-out, image to 3D, quality, captions; a folder for `data prepare`."""
    # `check` refuses a device that no caption model would use; here the checkpoint does.
    captions = CaptionOptions(
        caption_endpoint, caption_model, caption_transformers, None, caption_response_format, caption_prompts,
        out / WORK / "answers", alignment, alignment_model, alignment_threshold,
    )  # fmt: skip
    judgement = Judgement(judge_endpoint, judge_model, judge_response_format, tuple(judged or ()))
    thresholds = {
        "geometric_consistency": geometric_consistency,
        "surface_clarity": surface_clarity,
        "silhouette_connectivity": silhouette_connectivity,
    }
    judgement.check()
    # A judge is asked the prompts of the folder too.
    (captions if judge_endpoint is None else replace(captions, prompts=None)).check()
    check_template(prompt_template)
    if not licence.strip() or not attribution.strip():
        raise Omni123Error("--licence and --attribution of the result follow from the generators' terms: state them")
    stated = {name: value for name, value in thresholds.items() if value is not None}
    if stated and judgement.decides("quality"):
        option = next(iter(stated)).replace("_", "-")
        raise Omni123Error(f"--{option} is of measured quality, but the judge decides quality; leave one of them out")

    from omni123_hf.data.captioning.local_models import usable_device

    where = usable_device(device)
    remover, remover_id = background_remover(background, background_model, background_kind)
    found = read(prompts, parametric, categories, prompt_licence, seed)
    check_folder(out)
    judge = judgement.judge(captions)

    from omni123_hf.data.run_lock import only_run
    from omni123_hf.data.synthesis.export import write_source
    from omni123_hf.data.synthesis.pipeline import SynthesisPipeline
    from omni123_hf.data.synthesis.quality import JudgedQuality, MeasuredQuality
    from omni123_hf.data.synthesis.steps import BackgroundStep, ImageTo3DStep, QualityStep, TextToImageStep

    rater: QualityRater
    if judgement.decides("quality"):
        assert judge is not None
        rater = JudgedQuality(judge)
    else:
        rater = MeasuredQuality(**{"surface_clarity": 0.0, **stated})
    painter, sculptor = generators(checkpoint, where, image_temperature, shape_temperature, resolution)
    steps: list[Step] = [
        TextToImageStep(painter, painter.generator_id, prompt_template),
        BackgroundStep(remover, remover_id, judge=judge if judgement.decides("mask") else None),
        ImageTo3DStep(sculptor, sculptor.generator_id),
        QualityStep(rater),
        caption_step(captions, where),
    ]
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with only_run(out):
        with progress_bar("curating prompts", quiet) as bar:
            kept, refused = curate(bar.track(found), judge if judgement.decides("prompts") else None, captions.cache)
        typer.echo(
            f"{len(found)} prompts, {len(kept)} of them usable" + (f", {min(limit, len(kept))} taken" if limit else "")
        )
        kept = kept[:limit]
        pipeline = SynthesisPipeline(out / WORK, steps, seed)
        with progress_bar("making objects", quiet) as bar:
            report = pipeline.run(kept, refused, bar.progress, bar.on_step)
        assets = pipeline.assets(kept, licence, attribution)
        write_source(assets, out / ASSETS)
        write_summary(out, report, checkpoint, steps, seed)
    for line in table(report):
        typer.echo(line)
    typer.echo(f"{out}: {len(assets)} objects, {sum(report.rejected.values())} rejected ({out / 'rejected.jsonl'})")
    if not assets:
        raise typer.Exit(1)
    typer.echo(f"make a data set of them with: omni123 data prepare {out} --out data/prepared")


@dataclass(frozen=True)
class Judgement:
    """What the command line says about the model that judges."""

    endpoint: str | None
    model: str | None
    response_format: str
    judged: tuple[str, ...]

    def check(self) -> None:
        """Raise `Omni123Error` for options that contradict each other or would have no effect."""
        check_endpoint("judge", self.endpoint, self.model, self.response_format)
        unknown = [name for name in self.judged if name not in JUDGED]
        if unknown:
            raise Omni123Error(f"--judged must be among {', '.join(JUDGED)}, got {unknown[0]!r}")
        if self.judged and not self.endpoint:
            raise Omni123Error("--judged says what a judge decides; give --judge-endpoint and --judge-model")

    def decides(self, what: str) -> bool:
        """Whether a judge has the say over one of `JUDGED`."""
        return self.endpoint is not None and what in (self.judged or ("quality",))

    def judge(self, captions: CaptionOptions) -> Judge | None:
        """The judge, with the prompts of the captions."""
        if self.endpoint is None or self.model is None:
            return None
        from omni123_hf.data.captioning.judge import Judge

        return Judge(endpoint_backend(self.endpoint, self.model, self.response_format), captions.prompt_set())


def read(
    file: Path | None, parametric: int | None, categories: list[str] | None, licence: str, seed: int
) -> list[Prompt]:
    """The prompts that the options name."""
    if (file is None) == (parametric is None):
        raise Omni123Error("give prompts: --prompts FILE or --parametric N, one of the two")
    if file is not None:
        from omni123_hf.data.synthesis.prompts import read_prompts

        if categories:
            raise Omni123Error("--category is for --parametric; prompts of a file state their own")
        return read_prompts(file, file.name, licence)
    assert parametric is not None
    if licence != "unknown":
        raise Omni123Error("--prompt-licence is for --prompts; prompts of our own generator have their licence")
    try:
        from omni123_hf.data.synthesis.prompts import parametric_prompts

        return parametric_prompts(parametric, seed, categories or None)
    except ModuleNotFoundError as error:
        raise Omni123Error(
            f"parametric prompts need {error.name}; install it with: pip install 'omni123-hf[data]'"
        ) from error


def curate(prompts: Iterable[Prompt], judge: Judge | None, cache: Path) -> tuple[list[Prompt], list[RejectedPrompt]]:
    """Prompts to use and the others with reasons. judge: says whether a prompt is one object; cache: of its answers."""
    from omni123_hf.data.captioning.cache import JsonCache
    from omni123_hf.data.synthesis.curation import JudgeSingleObject, PromptCurator

    single = None if judge is None else JudgeSingleObject(judge, JsonCache(cache))
    return PromptCurator(is_single_object=single).curate(prompts)


def background_remover(name: str, model: Path | None, kind: str | None) -> tuple[BackgroundRemover, str]:
    """What cuts the object out, and its id."""
    from omni123_hf.data.synthesis.background import BorderFlood

    if name == "border-flood":
        if model is not None or kind is not None:
            raise Omni123Error("--background-model and --background-kind are for --background onnx")
        return BorderFlood(), name
    if name != "onnx":
        raise Omni123Error(f"--background must be border-flood or onnx, got {name!r}")
    if model is None:
        raise Omni123Error("--background onnx needs --background-model, the ONNX file of a network")
    from omni123_hf.data.synthesis.onnx_background import OnnxBackground

    remover = OnnxBackground(model, kind or "u2net")
    return remover, remover.remover_id


def generators(checkpoint: str, device: str, image: float, shape: float, resolution: int) -> tuple[Any, Any]:
    """Text to image and image to 3D of a checkpoint, at these temperatures."""
    from omni123_hf.cli.generate import load_pipeline
    from omni123_hf.pipelines.pipeline_base import check_resolution
    from omni123_hf.pipelines.pipeline_joint import Omni123JointPipeline
    from omni123_hf.pipelines.synthesis_adapters import Omni123ImageTo3D, Omni123TextToImage

    check_resolution(resolution)
    pipeline = load_pipeline(checkpoint, device)
    if not isinstance(pipeline, Omni123JointPipeline):
        raise Omni123Error(f"the checkpoint {checkpoint!r} makes no images; synthesis needs one that does")
    return Omni123TextToImage(pipeline, image), Omni123ImageTo3D(pipeline, shape, resolution)


def caption_step(options: CaptionOptions, device: str) -> Step:
    """Captions by a model that sees the result, or the words of the prompt."""
    from omni123_hf.data.captioning.given import GivenCaptioner
    from omni123_hf.data.synthesis.steps import PromptCaptionStep, RecaptionStep

    captioner = options.captioner(device)
    if captioner is None or isinstance(captioner, GivenCaptioner):
        return PromptCaptionStep(captioner)
    identity = json.dumps(captioner.identity, sort_keys=True)
    return RecaptionStep(captioner.caption, identity, view_size=captioner.view_size)


def check_template(template: str) -> None:
    """Raise `Omni123Error` unless {prompt} is the only thing to be filled in."""
    try:
        is_filled = "\0" in template.format(prompt="\0")
    except (KeyError, IndexError, ValueError):
        is_filled = False
    if not is_filled:
        raise Omni123Error(f"--prompt-template needs {{prompt}} and no other braces, got {template!r}")


def check_folder(out: Path) -> None:
    """Raise `Omni123Error` for a folder that holds anything else: its meshes would be prepared with ours."""
    if out.exists() and not out.is_dir():
        raise Omni123Error(f"{out} is a file; choose a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir():
        raise Omni123Error(f"{out} is not empty and holds no synthesis; choose another folder")


def write_summary(out: Path, report: SynthesisReport, checkpoint: str, steps: Sequence[Step], seed: int) -> None:
    """The reasons and what the run was, beside the meshes."""
    from omni123_hf.data.store import write_json, write_text

    write_text(out / "rejected.jsonl", (out / WORK / "rejected.jsonl").read_text(encoding="utf-8"))
    outcomes = {step.name: {"passed": step.passed, "rejected": step.rejected} for step in report.steps}
    identities = {step.name: dict(step.identity) for step in steps}
    write_json(
        out / "synthesis.json",
        {
            "checkpoint": Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint,
            "seed": seed,
            "objects": report.finished,
            "steps": identities,
            "outcome": outcomes,
        },
    )


def table(report: SynthesisReport) -> Iterator[str]:
    """What came of each step, a line each and one for every reason."""
    yield f"{'step':<16}{'passed':>8}{'rejected':>10}"
    for step in report.steps:
        yield f"{step.name:<16}{step.passed:>8}{sum(step.rejected.values()):>10}"
        for reason, count in step.rejected.items():
            yield f"  {reason:<22}{count:>10}"


class Bar:
    """One line on the screen: how far, what came of it so far, and the step at work."""

    def __init__(self, progress: Any, task: Any):
        self._progress, self._task = progress, task
        self._kept = self._rejected = 0

    def track(self, items: Sequence[Any]) -> Iterator[Any]:
        """The items, counted as they are taken."""
        self._progress.update(self._task, total=len(items), visible=True)
        for item in items:
            yield item
            self._progress.advance(self._task)

    def on_step(self, item: Any, step: Any) -> None:
        """Before a step of an item."""
        self._progress.update(self._task, step=step.name.replace("_", " "), visible=True)

    def progress(self, done: int, total: int, state: Any) -> None:
        """After an item."""
        self._kept, self._rejected = self._kept + (state.rejected is None), self._rejected + bool(state.rejected)
        words = f"{self._kept} kept, {self._rejected} rejected"
        self._progress.update(self._task, completed=done, total=total, description=words, step="", visible=True)


@contextmanager
def progress_bar(description: str, quiet: bool) -> Iterator[Bar]:
    """A bar on stderr, shown from the first sign of work on."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[step]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, speed_estimate_period=600.0) as progress:
        yield Bar(progress, progress.add_task(description, total=None, visible=False, step=""))
