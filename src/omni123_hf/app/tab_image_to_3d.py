"""The tab "Image to 3D": a picture, and a text where there is one, to a shape."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from omni123_hf.app import work
from omni123_hf.app.panels import PRIVATE, QUEUED, ResultPanel, SettingsForm, cancel_button, notice, show_model
from omni123_hf.app.service import Service
from omni123_hf.errors import Omni123Error


def build(service: Service) -> tuple[gr.Button, ResultPanel]:
    """Draws the tab; returns the button that leads to the edit tab, and the panel of results."""
    notice(service.models.notice("Omni123ImageTo3DPipeline"))
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            image = gr.Image(
                label="Picture: one object on a plain background", type="filepath", sources=["upload", "clipboard"],
                height=260, elem_id="image-to-3d-input",
            )  # fmt: skip
            prompt = gr.Textbox(
                label="What it is (optional)", placeholder="a red chair", max_length=service.limits.max_text
            )
            with gr.Row():
                start = gr.Button("Make the shape", variant="primary", scale=3, elem_id="image-to-3d-start")
                actions = gr.Column(scale=1, min_width=90)
            form = SettingsForm(service)
        with gr.Column(scale=7, min_width=360):
            panel = ResultPanel(service, work.IMAGE_TO_3D, "The picture as the model sees it")
            to_edit = gr.Button("Edit this shape")

    def run(
        image: Any, prompt: Any, seed: Any, guidance: Any, temperature: Any, resolution: Any, previews: Any,
        samples: Any, request: gr.Request,
    ) -> Iterator[list[Any]]:  # fmt: skip
        def steps() -> Any:
            if image is None:
                raise Omni123Error("there is no picture yet; upload one")
            settings = service.settings(seed, guidance, temperature, resolution, samples, previews)
            text = service.text("text", prompt, needed=False)
            path = service.sessions.upload(service.sessions.get(request.session_hash), image)
            return service.run(
                request.session_hash,
                lambda session, job: work.image_to_3d(service, session, job, path, text, settings),
            )

        yield from panel.follow(steps)

    # Not preprocessed: Gradio would open the picture itself, before its size is checked.
    event = start.click(
        run, [image, prompt, *form.inputs], panel.outputs, preprocess=False, show_progress_on=panel.status,
        **QUEUED, **PRIVATE,
    )  # fmt: skip
    show_model(service, work.IMAGE_TO_3D, event, panel.model)
    with actions:
        cancel_button(service, work.IMAGE_TO_3D, panel.status, panel.model, [event])
    return to_edit, panel
