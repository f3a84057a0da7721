"""What the tabs share: the settings of a job, the panel that shows its progress and its samples, and how a handler follows it."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from omni123_hf.app.jobs import Progress
from omni123_hf.app.messages import error_line, health_words, progress_bar, status_line
from omni123_hf.app.results import Sample
from omni123_hf.app.service import Service


T = TypeVar("T")
VIEWER_HEIGHT = 380
# Drawn when a random seed is asked for at temperature 0, where the seed would change nothing.
LIVELY_TEMPERATURE = 0.7
# Every event of the pages: `api.py` has the public ones.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# One job at a time, in the order of asking, whichever tab asks.
QUEUED: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}


class SettingsForm:
    """Seed, guidance, temperature, resolution, previews and, if wanted, the number of samples; `inputs` in this order."""

    def __init__(self, service: Service, with_samples: bool = True, is_edit: bool = False):
        limits = service.limits
        scale = service.settings(is_edit=is_edit).guidance_scale
        with gr.Row(elem_classes="seed-row"):
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=3, min_width=120)
            self.dice = gr.Button("Random seed", size="sm", scale=2, min_width=110)
        if with_samples:
            self.samples = gr.Slider(1, limits.max_samples, value=1, step=1, label="Samples")
        with gr.Accordion("More settings", open=False):
            self.temperature = gr.Slider(
                0,
                1.5,
                value=0.0,
                step=0.05,
                label="Temperature",
                info="0: the likeliest result; the seed has no effect.",
            )
            self.guidance = gr.Slider(
                1, 10, value=scale, step=0.25, label="Guidance", info="How closely it follows; 1: not guided."
            )
            self.resolution = gr.Slider(
                32, min(192, limits.max_resolution), value=64, step=8, label="Resolution",
                info="Points on a side of the grid that the surface is taken from. Double is eight times slower.",
            )  # fmt: skip
            tokenizer = getattr(service.models.base, "shape_tokenizer", None)
            self.previews = gr.Slider(
                0, 64 if tokenizer is None else tokenizer.config.num_latents, value=0, step=limits.min_preview,
                label="Preview every N tokens",
                info="A coarse look at the unfinished shape in the viewer; it is rough, and costs time. 0: off.",
            )  # fmt: skip
        self.inputs: list[Any] = [self.seed, self.guidance, self.temperature, self.resolution, self.previews]
        if with_samples:
            self.inputs.append(self.samples)
        # In the browser: nothing is computed here.
        self.dice.click(
            None,
            self.temperature,
            [self.seed, self.temperature],
            js=f"(t) => [Math.floor(Math.random() * 2147483647), t > 0 ? t : {LIVELY_TEMPERATURE}]",
            **PRIVATE,
        )


class ResultPanel:
    """Progress, pictures, the 3D viewer, facts in words and downloads; a choice between samples where there are several."""

    def __init__(self, service: Service, tab: str, picture_label: str, many_pictures: bool = False):
        self.service, self.tab, self.many_pictures = service, tab, many_pictures
        self.status = gr.HTML(status_line("Ready."), elem_id=f"{tab}-status", elem_classes="status", padding=False)
        if many_pictures:
            self.picture: Any = gr.Gallery(
                label=picture_label, columns=3, height=VIEWER_HEIGHT, object_fit="contain", elem_id=f"{tab}-pictures",
                interactive=False,
            )  # fmt: skip
            self.model = viewer(f"{tab}-model")
        else:
            with gr.Row():
                self.picture = gr.Image(
                    label=picture_label, height=VIEWER_HEIGHT, interactive=False, buttons=["download"],
                    elem_id=f"{tab}-picture", elem_classes="picture", min_width=240,
                )  # fmt: skip
                self.model = viewer(f"{tab}-model")
        self.facts = gr.Markdown(elem_id=f"{tab}-facts", elem_classes="facts")
        self.choice = gr.Radio([], label="Sample", visible=False, elem_id=f"{tab}-choice")
        with gr.Row():
            self.mesh_file = gr.DownloadButton("Download GLB", interactive=False, elem_id=f"{tab}-glb")
            self.record_file = gr.DownloadButton("Download record", interactive=False, elem_id=f"{tab}-record")
        shown = [self.status, self.picture, self.facts, self.mesh_file, self.record_file]
        self.outputs = [*shown, self.choice, self.model]
        self.choice.input(
            self._choose, self.choice, [*shown, self.model], preprocess=False, queue=False, show_progress="hidden",
            **PRIVATE,
        )  # fmt: skip

    def waiting(self, status: str, preview: Path | None = None) -> list[Any]:
        """The status alone changes, and the viewer where there is a preview."""
        return [status, *[gr.skip()] * (len(self.outputs) - 2), shown_preview(preview)]

    def show(self, samples: list[Sample]) -> list[Any]:
        """Everything but the model (`show_model`), for the first of the samples."""
        names = [choice_name(sample, place) for place, sample in enumerate(samples)]
        choices = [(name, place) for place, name in enumerate(names)]
        return [*self.updates(samples[0]), gr.Radio(choices=choices, value=0, visible=len(samples) > 1), gr.skip()]

    def again(self, request: gr.Request) -> list[Any]:
        """What the page showed before it was loaded again, but for the model; nothing changes where that was nothing."""
        session = self.service.sessions.get(request.session_hash)
        samples = session.samples.get(self.tab)
        if not samples:
            return [gr.skip()] * len(self.outputs)
        session.viewed[self.tab] = samples[0].mesh
        return self.show(samples)

    def updates(self, sample: Sample) -> list[Any]:
        """What is shown of one sample, but for the model (`show_model`)."""
        pictures = [(str(path), name) for name, path in sample.pictures.items()]
        has_shape = "mesh" in sample.record and (sample.mesh is not None or sample.record["failure"] is not None)
        words = health_words(sample.record["mesh"], sample.record["failure"]) if has_shape else ""
        seconds = sample.record.get("seconds")
        failed = has_shape and sample.mesh is None
        return [
            status_line("The model gave no surface." if failed else f"Done in {seconds:.1f} s.", "bad" if failed else "good"),
            pictures if self.many_pictures else (pictures[0][0] if pictures else None),
            words,
            download(sample.mesh),
            download(sample.record_file),
        ]  # fmt: skip

    def follow(self, steps: Callable[[], Generator[Progress, None, list[Sample]]]) -> Iterator[list[Any]]:
        """A handler's body: progress while the job runs, then its samples, or the one line of its error."""
        try:
            samples = yield from follow(steps(), watched(self.waiting))
        except Exception as error:
            yield self.waiting(failed(error))
            return
        yield self.show(samples)

    def _choose(self, place: int, request: gr.Request) -> list[Any]:
        session = self.service.sessions.get(request.session_hash)
        samples = session.samples.get(self.tab, [])
        if not isinstance(place, int) or not 0 <= place < len(samples):
            return [status_line("This sample is gone; make it again.", "bad"), *[gr.skip()] * 5]
        mesh = session.viewed[self.tab] = samples[place].mesh
        if mesh is not None:
            session.shown = samples[place]
        return [*self.updates(samples[place]), None if mesh is None else str(mesh)]


def watched(waiting: Callable[[str, Path | None], Any]) -> Callable[[Progress], Any]:
    """For `follow`: `waiting(progress bar, preview)`, with each preview once and None in between."""
    last: Path | None = None

    def shown(progress: Progress) -> Any:
        nonlocal last
        new = progress.preview if progress.preview != last else None
        last = progress.preview
        return waiting(progress_bar(progress), new)

    return shown


def follow(steps: Generator[Progress, None, T], shown: Callable[[Progress], Any]) -> Generator[Any, None, T]:
    """Yields `shown(progress)` and returns the job's result. Closed from outside, it closes the job."""
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                return end.value
            yield shown(progress)
    finally:
        steps.close()


def failed(error: Exception) -> str:
    """The status line of an error, which a passing notice tells, too: the line may be out of sight."""
    line = error_line(error)
    gr.Warning(line, title="Not done")
    return status_line(line, "bad")


def choice_name(sample: Sample, place: int) -> str:
    """`1`, with its score where samples were ranked."""
    score = sample.record.get("score")
    name = f"{place + 1}" + ("" if score is None else f" (score {score['score']:.2f})")
    return name + ("" if sample.mesh is not None else ", no surface")


def viewer(elem_id: str) -> gr.Model3D:
    """The 3D viewer: drag turns, the wheel zooms."""
    return gr.Model3D(
        label="3D model", height=VIEWER_HEIGHT, interactive=False, elem_id=elem_id, min_width=240,
        clear_color=(0.2, 0.22, 0.27, 1.0),
    )  # fmt: skip


def show_model(service: Service, tab: str, event: Any, model: gr.Model3D) -> None:
    """After `event`, the viewer shows the session's `viewed` mesh of this tab.

    Not among the outputs of the event itself: Gradio sends the last values of a generator twice, and at the second time
    its viewer (6.31) gives up loading itself and stays blank.
    """

    def mesh(request: gr.Request) -> str | None:
        session = service.sessions.get(request.session_hash)
        session.previewed.discard(tab)
        path = session.viewed.get(tab)
        return None if path is None else str(path)

    event.then(mesh, None, model, queue=False, show_progress="hidden", **PRIVATE)


def download(path: Any) -> gr.DownloadButton:
    """A download button's update: nothing to fetch, or this file."""
    return gr.DownloadButton(value=None if path is None else str(path), interactive=path is not None)


def notice(text: str | None) -> None:
    """What the user has to know about the checkpoint before using a tab."""
    if text is not None:
        gr.Markdown(f"**Note.** {text}", elem_classes="notice")


def shown_preview(preview: Path | None) -> Any:
    """The viewer's update in the middle of a job. Never in the last one: `show_model` says why."""
    return gr.skip() if preview is None else str(preview)


def cancel_button(service: Service, tab: str, status: gr.HTML, model: gr.Model3D, events: list[Any]) -> gr.Button:
    """Stops these events; Gradio closes their generators, and the job stops at its next step. A preview gives way to the
    result before, which facts and downloads still belong to."""
    button = gr.Button("Cancel", variant="stop", min_width=90, scale=1, elem_id=f"{tab}-cancel")

    def cancelled(request: gr.Request) -> list[Any]:
        session = service.sessions.get(request.session_hash)
        if tab not in session.previewed:
            return [status_line("Cancelled."), gr.skip()]
        session.previewed.discard(tab)
        path = session.viewed.get(tab)
        return [status_line("Cancelled."), None if path is None else str(path)]

    button.click(cancelled, None, [status, model], cancels=events, queue=False, show_progress="hidden", **PRIVATE)
    return button
