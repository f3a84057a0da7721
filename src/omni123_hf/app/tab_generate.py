"""The tab "Generate": a text to an image and a shape."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from omni123_hf.app import work
from omni123_hf.app.panels import PRIVATE, QUEUED, ResultPanel, SettingsForm, cancel_button, notice, show_model
from omni123_hf.app.service import Service


EXAMPLES = ("a round wooden table with three legs", "a tall red vase", "a blue car with four wheels", "a white mug")


def build(service: Service) -> tuple[gr.Button, ResultPanel]:
    """Draws the tab; returns the button that leads to the edit tab, and the panel of results."""
    panel: ResultPanel
    notice(service.models.notice(service.models.text_class()))
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            prompt = gr.Textbox(
                label="Prompt", placeholder="What to make, for example: a round wooden table with three legs",
                lines=2, max_length=service.limits.max_text, elem_id="generate-prompt", submit_btn=False,
            )  # fmt: skip
            with gr.Row():
                start = gr.Button("Generate", variant="primary", scale=3, elem_id="generate-start")
                actions = gr.Column(scale=1, min_width=90)
            with gr.Row(elem_classes="examples"):
                for text in EXAMPLES:
                    gr.Button(text, size="sm", variant="secondary", min_width=60).click(
                        None, None, prompt, js=f"() => {text!r}", **PRIVATE
                    )
            form = SettingsForm(service)
            rank = gr.Checkbox(
                True, label="Best sample first", info="Ranked by how well image and shape agree; with several samples."
            )
        with gr.Column(scale=7, min_width=360):
            panel = ResultPanel(service, work.GENERATE, "Image")
            to_edit = gr.Button("Edit this shape", elem_id="generate-edit")

    def run(
        prompt: Any, seed: Any, guidance: Any, temperature: Any, resolution: Any, previews: Any, samples: Any, rank: Any,
        request: gr.Request,
    ) -> Iterator[list[Any]]:  # fmt: skip
        def steps() -> Any:
            settings = service.settings(seed, guidance, temperature, resolution, samples, previews)
            text = service.text("prompt", prompt) or ""
            return service.run(
                request.session_hash,
                lambda session, job: work.generate(service, session, job, text, settings, bool(rank)),
            )

        yield from panel.follow(steps)

    event = gr.on(
        [start.click, prompt.submit], run, [prompt, *form.inputs, rank], panel.outputs, preprocess=False,
        show_progress_on=panel.status, **QUEUED, **PRIVATE,
    )  # fmt: skip
    show_model(service, work.GENERATE, event, panel.model)
    with actions:
        cancel_button(service, work.GENERATE, panel.status, panel.model, [event])
    return to_edit, panel
