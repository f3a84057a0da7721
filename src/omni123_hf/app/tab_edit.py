"""The tab "Edit": instructions change a shape, and every state stays in a tree that can be gone back in."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from omni123_hf.app import work
from omni123_hf.app.history_tree import tree_lines
from omni123_hf.app.jobs import Job, Progress
from omni123_hf.app.messages import health_words, locality_words, status_line
from omni123_hf.app.panels import (
    PRIVATE,
    QUEUED,
    SettingsForm,
    cancel_button,
    download,
    failed,
    follow,
    notice,
    show_model,
    shown_preview,
    viewer,
    watched,
)
from omni123_hf.app.service import Service
from omni123_hf.app.sessions import Session
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.loading import supported_suffixes
from omni123_hf.pipelines.edit_session import EditSession


TAB = work.EDIT
Steps = Generator[Progress, None, None]


def build(
    service: Service, tabs: gr.Tabs, to_edit: list[gr.Button]
) -> tuple[Callable[..., list[Any]], list[Any], gr.Model3D]:
    """Draws the tab. to_edit: buttons of other tabs that lead here with the shape that they show.

    Returns what shows the tree again after the page was loaded again, the components that this changes, and the viewer.
    """
    notice(service.models.notice("Omni123EditPipeline"))
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            mesh = gr.File(
                label="Mesh to begin with", file_types=supported_suffixes(), height=120, elem_id="edit-mesh"
            )
            with gr.Row():
                from_file = gr.Button("Begin with this mesh", size="sm", elem_id="edit-from-file")
                from_shown = gr.Button("Begin with the last shape", size="sm", elem_id="edit-from-shown")
            instruction = gr.Textbox(
                label="Instruction", placeholder="add armrests", lines=2, max_length=service.limits.max_text,
                elem_id="edit-instruction",
            )  # fmt: skip
            with gr.Row():
                start = gr.Button("Edit", variant="primary", scale=3, elem_id="edit-start")
                actions = gr.Column(scale=1, min_width=90)
            form = SettingsForm(service, with_samples=False, is_edit=True)
        with gr.Column(scale=7, min_width=360):
            status = gr.HTML(status_line("No shape yet."), elem_id="edit-status", elem_classes="status", padding=False)
            with gr.Row():
                with gr.Column(min_width=240):
                    model = viewer("edit-model")
                with gr.Column(min_width=240):
                    history = gr.Radio([], label="History: pick a state to go on from", elem_id="edit-history")
                    undo = gr.Button("Undo", size="sm", interactive=False, elem_id="edit-undo")
            facts = gr.Markdown(elem_id="edit-facts", elem_classes="facts")
            with gr.Row():
                mesh_file = gr.DownloadButton("Download GLB", interactive=False, elem_id="edit-glb")
                session_file = gr.DownloadButton("Download session (zip)", interactive=False, elem_id="edit-zip")
    outputs: list[Any] = [status, history, undo, facts, mesh_file, session_file]
    everything = [*outputs, model]

    def waiting(text: str, preview: Path | None = None) -> list[Any]:
        return [text, *[gr.skip()] * (len(outputs) - 1), shown_preview(preview)]

    def shown(session: Session, is_new: bool = False) -> list[Any]:
        tree = session.need_tree()
        node = tree.node
        path, archive = work.edit_files(service, session, is_new)
        words = [health_words(node.health, node.failure), locality_words(node.locality, node.changed)]
        lost = node.failure is not None
        session.viewed[TAB] = path
        return [
            status_line(f"State {node.number} of {len(tree.nodes) - 1}.", "bad" if lost else "good"),
            gr.Radio(choices=[(line, number) for line, number in tree_lines(tree)], value=node.number),
            gr.Button(interactive=node.parent is not None),
            "\n\n".join(part for part in words if part),
            download(path),
            download(archive),
        ]

    def run(request: gr.Request, steps: Callable[[Session], Steps], is_new: bool = False) -> Iterator[list[Any]]:
        try:
            session = service.sessions.get(request.session_hash)
            yield from follow(steps(session), watched(waiting))
            result = shown(session, is_new)
        except Exception as error:
            yield waiting(failed(error))
            return
        yield [*result, gr.skip()]

    def begin(request: gr.Request, resolution: Any, file: Any, wants_file: bool) -> Iterator[list[Any]]:
        def steps(session: Session) -> Steps:
            if wants_file and file is None:
                raise Omni123Error("there is no mesh yet; upload one")
            grid = service.settings(resolution=resolution).resolution
            path = service.sessions.upload(session, file) if wants_file else None

            def task(session: Session, job: Job) -> EditSession:
                return work.begin_edit(service, session, job, path, grid)

            yield from service.run(request.session_hash, task)

        yield from run(request, steps)

    def begin_with_file(file: Any, resolution: Any, request: gr.Request) -> Iterator[list[Any]]:
        yield from begin(request, resolution, file, True)

    def begin_with_shown(resolution: Any, request: gr.Request) -> Iterator[list[Any]]:
        yield from begin(request, resolution, None, False)

    def edit(
        instruction: Any, seed: Any, guidance: Any, temperature: Any, resolution: Any, previews: Any,
        request: gr.Request,
    ) -> Iterator[list[Any]]:  # fmt: skip
        def steps(session: Session) -> Steps:
            settings = service.settings(seed, guidance, temperature, resolution, preview_every=previews, is_edit=True)
            text = service.text("instruction", instruction) or ""
            session.need_tree()
            yield from service.run(
                request.session_hash, lambda session, job: work.edit(service, session, job, text, settings)
            )

        yield from run(request, steps, is_new=True)

    def step(request: gr.Request, change: Callable[[EditSession], object]) -> list[Any]:
        try:
            session = service.sessions.get(request.session_hash)
            change(session.need_tree())
            updates = shown(session)
            path = session.viewed[TAB]
            return [*updates, None if path is None else str(path)]
        except Exception as error:
            return waiting(failed(error))

    def go_to(number: Any, request: gr.Request) -> list[Any]:
        return step(request, lambda tree: tree.go_to(number))

    def undo_edit(request: gr.Request) -> list[Any]:
        return step(request, lambda tree: tree.undo())

    queued: dict[str, Any] = {"preprocess": False, "show_progress_on": status, **QUEUED, **PRIVATE}
    events = [
        from_file.click(begin_with_file, [mesh, form.resolution], everything, **queued),
        from_shown.click(begin_with_shown, form.resolution, everything, **queued),
        gr.on([start.click, instruction.submit], edit, [instruction, *form.inputs], everything, **queued),
    ]
    for button in to_edit:
        opened = button.click(lambda: gr.Tabs(selected="edit"), None, tabs, queue=False, **PRIVATE)
        events.append(opened.then(begin_with_shown, form.resolution, everything, **queued))
    for event in events:
        show_model(service, TAB, event, model)
    history.input(go_to, history, everything, preprocess=False, queue=False, show_progress="hidden", **PRIVATE)
    undo.click(undo_edit, None, everything, queue=False, show_progress="hidden", **PRIVATE)
    with actions:
        cancel_button(service, TAB, status, model, events)

    def again(request: gr.Request) -> list[Any]:
        session = service.sessions.get(request.session_hash)
        return shown(session) if session.tree is not None else [gr.skip()] * len(outputs)

    return again, outputs, model
