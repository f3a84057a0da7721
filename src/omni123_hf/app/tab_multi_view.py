"""The tab "Multi-view": a text to pictures from several sides and the shape, pictures to a shape, a mesh to pictures."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from omni123_hf.app import work
from omni123_hf.app.panels import PRIVATE, QUEUED, ResultPanel, SettingsForm, cancel_button, notice, show_model
from omni123_hf.app.service import Service
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import CANONICAL_VIEWS
from omni123_hf.geometry.loading import supported_suffixes


TEXT, PICTURES, MESH = "A text", "Pictures", "A mesh"


def build(service: Service) -> tuple[gr.Button, ResultPanel]:
    """Draws the tab; returns the button that leads to the edit tab, and the panel of results."""
    notice(service.models.notice("Omni123MultiViewPipeline"))
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            source = gr.Radio([TEXT, PICTURES, MESH], value=TEXT, label="From", elem_id="multi-view-source")
            prompt = gr.Textbox(
                label="Prompt (needed for a text)", placeholder="a red chair", max_length=service.limits.max_text,
                elem_id="multi-view-prompt",
            )  # fmt: skip
            with gr.Group(visible=False) as picture_box, gr.Row():
                pictures = [
                    gr.Image(
                        label=view.capitalize(), type="filepath", sources=["upload"], height=120, min_width=90,
                        elem_classes="view-slot", elem_id=f"multi-view-{view}",
                    )
                    for view in CANONICAL_VIEWS
                ]  # fmt: skip
            with gr.Group(visible=False) as mesh_box:
                mesh = gr.File(label="Mesh", file_types=supported_suffixes(), height=120)
            with gr.Group() as view_box:
                views = gr.CheckboxGroup(
                    list(CANONICAL_VIEWS), value=["front", "back", "left", "right"], label="Views to draw first"
                )
                extra = gr.CheckboxGroup(list(CANONICAL_VIEWS), label="Views to draw after the shape")
            with gr.Row():
                start = gr.Button("Make", variant="primary", scale=3, elem_id="multi-view-start")
                actions = gr.Column(scale=1, min_width=90)
            form = SettingsForm(service, with_samples=False)
        with gr.Column(scale=7, min_width=360):
            panel = ResultPanel(service, work.MULTI_VIEW, "Views", many_pictures=True)
            to_edit = gr.Button("Edit this shape")

    def choose(source: str) -> list[Any]:
        return [
            gr.Group(visible=source == PICTURES),
            gr.Group(visible=source == MESH),
            gr.Group(visible=source != PICTURES),
            gr.CheckboxGroup(visible=source == TEXT),
        ]

    source.change(
        choose, source, [picture_box, mesh_box, view_box, extra], queue=False, show_progress="hidden", **PRIVATE
    )

    def run(
        source: Any, prompt: Any, views: Any, extra: Any, mesh: Any, front: Any, back: Any, left: Any, right: Any,
        top: Any, bottom: Any, seed: Any, guidance: Any, temperature: Any, resolution: Any,
        previews: Any, request: gr.Request,
    ) -> Iterator[list[Any]]:  # fmt: skip
        def steps() -> Any:
            settings = service.settings(seed, guidance, temperature, resolution, preview_every=previews)
            text = service.text("prompt", prompt, needed=source == TEXT)
            session = service.sessions.get(request.session_hash)
            call: dict[str, Any] = {"prompt": text, "views": list(views or [])}
            if source == TEXT:
                call["extra_views"] = list(extra or [])
            elif source == PICTURES:
                slots = zip(CANONICAL_VIEWS, (front, back, left, right, top, bottom), strict=True)
                given = {view: service.sessions.upload(session, file) for view, file in slots if file is not None}
                if not given:
                    raise Omni123Error("there is no picture yet; upload one for each side that you have")
                call |= {"views": list(given), "images": list(given.values())}
            elif mesh is None:
                raise Omni123Error("there is no mesh yet; upload one")
            else:
                call["mesh"] = service.sessions.upload(session, mesh)
            return service.run(
                request.session_hash, lambda session, job: work.multi_view(service, session, job, settings, **call)
            )

        yield from panel.follow(steps)

    event = start.click(
        run, [source, prompt, views, extra, mesh, *pictures, *form.inputs], panel.outputs, preprocess=False,
        show_progress_on=panel.status, **QUEUED, **PRIVATE,
    )  # fmt: skip
    show_model(service, work.MULTI_VIEW, event, panel.model)
    with actions:
        cancel_button(service, work.MULTI_VIEW, panel.status, panel.model, [event])
    return to_edit, panel
