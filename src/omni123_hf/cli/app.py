"""`omni123 app`: the web app on this machine."""

import signal
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from omni123_hf.cli.options import Device, Model
from omni123_hf.errors import Omni123Error


GRADIO_MAJOR = 6


def app(
    model: Model = "omni123-mini",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, and there is no password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port; the first free one from 7860 when left out.", min=1, max=65535)
    ] = None,
    device: Device = "cpu",
    max_queue: Annotated[int, typer.Option(help="Jobs that may wait; further ones are refused.", min=1)] = 16,
    max_upload_mb: Annotated[int, typer.Option(help="Largest file that may be uploaded, in MB.", min=1)] = 64,
    outputs: Annotated[
        Path | None, typer.Option(help="Folder that keeps every result; without it all files are temporary.")
    ] = None,
) -> None:
    """Serve the web app and its HTTP API: generate, image to 3D, multi-view, edit. Ctrl-C ends it. Needs the extra `app`."""
    check_gradio()
    from omni123_hf.app.build_app import serve
    from omni123_hf.app.service import Limits
    from omni123_hf.cli.generate import load_pipeline

    pipeline: Any = load_pipeline(model, device)
    limits = Limits(max_queue=max_queue, max_upload_mb=max_upload_mb)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Both end the block below, so that temporary files go.
        signal.signal(number, lambda *_: stop.set())
    with serve(pipeline, model, host, port, limits, outputs) as server:
        typer.echo(f"{server.url} (Ctrl-C ends it)")
        stop.wait()


def check_gradio() -> None:
    """Raises `Omni123Error` where Gradio is missing or of another generation."""
    try:
        found = version("gradio")
    except PackageNotFoundError:
        found = ""
    if found.partition(".")[0] != str(GRADIO_MAJOR):
        raise Omni123Error(
            f"the web app needs Gradio {GRADIO_MAJOR}, and {f'{found} is' if found else 'none is'} installed; "
            'install it with: pip install "omni123-hf[app]"'
        )
