"""The whole page, and the server around it. Nothing is fetched from the internet: fonts are the system's, scripts are Gradio's own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import _StaticFiles

from omni123_hf.app import api, reload, tab_edit, tab_generate, tab_image_to_3d, tab_multi_view
from omni123_hf.app.models import Models
from omni123_hf.app.reload import Again
from omni123_hf.app.service import Limits, Service
from omni123_hf.app.sessions import GRACE, TTL, Sessions
from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase


TITLE = "Omni123"
STYLE = Path(__file__).with_name("style.css")


def theme() -> gr.Theme:
    """Gradio's soft theme with the fonts of the reader's machine."""
    return gr.themes.Soft(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def build_app(service: Service) -> gr.Blocks:
    """Every tab and every endpoint. The client's files go when its page is closed (`Sessions.leave`)."""
    models = service.models
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(300, int(service.sessions.ttl))) as app:
        # Before the tabs, whose events would take the names of endpoints.
        api.build(service)
        gr.Markdown(
            f"# {TITLE}\nText, images and 3D shapes in one model. Checkpoint `{models.name}`, {models.revision}."
        )
        with gr.Tabs(selected="generate") as tabs:
            with gr.Tab("Generate", id="generate") as first:
                made = [tab_generate.build(service)]
            with gr.Tab("Image to 3D", id="image-to-3d") as second:
                made.append(tab_image_to_3d.build(service))
            with gr.Tab("Multi-view", id="multi-view") as third:
                made.append(tab_multi_view.build(service))
            with gr.Tab("Edit", id="edit") as last:
                history = tab_edit.build(service, tabs, [to_edit for to_edit, _ in made])
        again = [
            Again(panel.tab, tab, panel.again, panel.outputs, panel.model)
            for tab, (_, panel) in zip((first, second, third), made, strict=True)
        ]
        reload.build(service, app, [*again, Again(tab_edit.TAB, last, *history)])

        def leave(request: gr.Request) -> None:
            service.sessions.leave(request.session_hash)

        app.unload(leave)
    return app


@dataclass
class Server:
    """A server that runs. url: where, as seen from this machine."""

    url: str
    service: Service
    app: gr.Blocks


@contextmanager
def serve(
    pipeline: Omni123PipelineBase,
    name: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits | None = None,
    outputs: Path | None = None,
    ttl: float = TTL,
    grace: float = GRACE,
) -> Iterator[Server]:
    """Runs the app while the block lasts; then jobs stop and every temporary file goes.

    port None: the first free one from 7860. Raises `Omni123Error` for a port that is taken and a folder that cannot be written.
    """
    limits = limits or Limits()
    root = Path(tempfile.mkdtemp(prefix="omni123-app-")).resolve()
    before = os.environ.get("GRADIO_TEMP_DIR")
    # Where Gradio puts what clients upload. It reads this once, when the app starts.
    os.environ["GRADIO_TEMP_DIR"] = str(root / "uploads")
    sessions = Sessions(root, ttl, grace)
    try:
        if outputs is not None:
            outputs.mkdir(parents=True, exist_ok=True)
        service = Service(Models(pipeline, name), sessions, limits, outputs)
        # Results are served from where they lie; otherwise Gradio would keep a copy of each.
        gr.set_static_paths([sessions.root])
        app = build_app(service)
        app.queue(max_size=limits.max_queue)
        try:
            app.launch(**launch_options(host, port, limits))
        except OSError as error:
            raise Omni123Error(
                f"cannot listen on {host}, port {port or '7860 and above'}: {error}; choose another --port"
            ) from error
        try:
            yield Server(str(app.local_url), service, app)
        finally:
            sessions.close()
            app.close(verbose=False)
    finally:
        sessions.close()
        _StaticFiles.all_paths = [path for path in _StaticFiles.all_paths if Path(path) != sessions.root]
        if before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
        shutil.rmtree(root, ignore_errors=True)


def launch_options(host: str, port: int | None, limits: Limits) -> dict[str, Any]:
    """Everything that would leave this machine or show its insides is off."""
    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "inbrowser": False,
        "quiet": True,
        "prevent_thread_lock": True,
        "show_error": False,
        "max_file_size": f"{limits.max_upload_mb}mb",
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": ["api"],
        "theme": theme(),
        "css_paths": [STYLE],
        # Leaves out only a test that the page answers within three seconds, which a busy machine may not.
        "_frontend": False,
    }
