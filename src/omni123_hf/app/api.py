"""The HTTP API: one function an endpoint, plain types, the same work as the tabs do. `docs/app.md` shows how to call it.

Every endpoint that computes gives `{"status": "working", ...}` with its progress until the record and the files are there.
"""

from collections.abc import Callable, Generator, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from omni123_hf.app import work
from omni123_hf.app.history_tree import tree_lines
from omni123_hf.app.jobs import Job, Progress
from omni123_hf.app.messages import error_line
from omni123_hf.app.panels import QUEUED, follow
from omni123_hf.app.results import Sample
from omni123_hf.app.service import Service
from omni123_hf.app.sessions import Session


Answer = tuple[dict[str, Any], list[FileData]]


def build(service: Service) -> None:
    """Registers the endpoints with the Blocks that are being built."""
    sessions = service.sessions

    def samples(steps: Generator[Progress, None, list[Sample]]) -> Iterator[Answer]:
        made = yield from follow(steps, working)
        record = {"status": "done", "samples": [sample.record for sample in made]}
        yield record, [file_data(path) for sample in made for path in sample.files]

    def state(session: Session, is_new: bool = False) -> Answer:
        tree = session.need_tree()
        mesh, archive = work.edit_files(service, session, is_new)
        record = {
            "status": "done",
            "node": tree.node.facts(),
            "current": tree.current,
            "history": [{"node": number, "line": line} for line, number in tree_lines(tree)],
        }
        return record, [file_data(path) for path in (mesh, archive) if path is not None]

    def generate(
        prompt: str,
        seed: int = 0,
        guidance_scale: float | None = None,
        temperature: float = 0.0,
        resolution: int = 64,
        num_samples: int = 1,
        rank: bool = True,
        request: gr.Request = None,  # type: ignore[assignment]
    ) -> Iterator[Answer]:
        """A text to an image and a shape. Files of each sample: image (PNG), mesh (GLB), record (JSON)."""
        settings = service.settings(seed, guidance_scale, temperature, resolution, num_samples)
        text = service.text("prompt", prompt) or ""
        yield from samples(
            service.run(
                request.session_hash,
                lambda session, job: work.generate(service, session, job, text, settings, bool(rank)),
            )
        )

    def image_to_3d(
        image: FileData,
        prompt: str | None = None,
        seed: int = 0,
        guidance_scale: float | None = None,
        temperature: float = 0.0,
        resolution: int = 64,
        num_samples: int = 1,
        request: gr.Request = None,  # type: ignore[assignment]
    ) -> Iterator[Answer]:
        """A picture (PNG, JPEG, WebP), and a text where there is one, to a shape."""
        settings = service.settings(seed, guidance_scale, temperature, resolution, num_samples)
        text = service.text("prompt", prompt, needed=False)
        path = sessions.upload(sessions.get(request.session_hash), image)
        yield from samples(
            service.run(
                request.session_hash,
                lambda session, job: work.image_to_3d(service, session, job, path, text, settings),
            )
        )

    def multi_view(
        prompt: str | None = None,
        views: list[str] = ["front", "back", "left", "right"],  # noqa: B006 (Gradio reads the default from the signature)
        extra_views: list[str] = [],  # noqa: B006
        images: list[FileData] | None = None,
        mesh: FileData | None = None,
        seed: int = 0,
        guidance_scale: float | None = None,
        temperature: float = 0.0,
        resolution: int = 64,
        request: gr.Request = None,  # type: ignore[assignment]
    ) -> Iterator[Answer]:
        """A prompt alone: pictures of views, the shape, pictures of extra_views. Images of views: the shape. A mesh: pictures of views."""
        settings = service.settings(seed, guidance_scale, temperature, resolution)
        session = sessions.get(request.session_hash)
        text = service.text("prompt", prompt, needed=not images and mesh is None)
        paths = [sessions.upload(session, image) for image in images or []] or None
        mesh_path = None if mesh is None else sessions.upload(session, mesh)
        call: dict[str, Any] = {"prompt": text, "views": list(views), "extra_views": list(extra_views)}
        yield from samples(
            service.run(
                request.session_hash,
                lambda session, job: work.multi_view(
                    service, session, job, settings, images=paths, mesh=mesh_path, **call
                ),
            )
        )

    def edit_begin(
        mesh: FileData | None = None,
        resolution: int = 64,
        request: gr.Request = None,  # type: ignore[assignment]
    ) -> Iterator[Answer]:
        """A new tree of edits from a mesh or, without one, from the shape that this client made last. Files: mesh, session (zip)."""
        session = sessions.get(request.session_hash)
        grid = service.settings(resolution=resolution).resolution
        path = None if mesh is None else sessions.upload(session, mesh)

        def task(session: Session, job: Job) -> Any:
            return work.begin_edit(service, session, job, path, grid)

        yield from follow(service.run(request.session_hash, task), working)
        yield state(session)

    def edit(
        instruction: str,
        seed: int = 0,
        guidance_scale: float | None = None,
        temperature: float = 0.0,
        resolution: int = 64,
        node: int | None = None,
        request: gr.Request = None,  # type: ignore[assignment]
    ) -> Iterator[Answer]:
        """One edit of the current state of this client's tree, or of the state with number node. Files: mesh, session (zip)."""
        settings = service.settings(seed, guidance_scale, temperature, resolution, is_edit=True)
        text = service.text("instruction", instruction) or ""
        session = sessions.get(request.session_hash)
        session.need_tree()
        steps = service.run(
            request.session_hash, lambda session, job: work.edit(service, session, job, text, settings, node)
        )
        yield from follow(steps, working)
        yield state(session, is_new=True)

    def edit_go_to(node: int, request: gr.Request = None) -> Answer:  # type: ignore[assignment]
        """Makes another state of the tree the current one. Files: mesh, session (zip)."""
        session = sessions.get(request.session_hash)
        session.need_tree().go_to(node)
        return state(session)

    def edit_undo(request: gr.Request = None) -> Answer:  # type: ignore[assignment]
        """Goes back to the state before the current one. Files: mesh, session (zip)."""
        session = sessions.get(request.session_hash)
        session.need_tree().undo()
        return state(session)

    for steps in (generate, image_to_3d, multi_view, edit_begin, edit):
        gr.api(streamed(steps), api_name=steps.__name__, **QUEUED)
    for once in (edit_go_to, edit_undo):
        gr.api(plain(once), api_name=once.__name__, queue=False)


def working(progress: Progress) -> Answer:
    return {"status": "working", **progress.to_dict()}, []


def file_data(path: Path) -> FileData:
    return FileData(path=str(path), orig_name=path.name)


def streamed(function: Callable[..., Iterator[Answer]]) -> Callable[..., Iterator[Answer]]:
    """Errors as one line for the client; two outputs for Gradio, which reads them from the annotation."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Iterator[Answer]:
        try:
            yield from function(*args, **kwargs)
        except Exception as error:
            raise gr.Error(error_line(error), print_exception=False) from error

    wrapped.__annotations__ = {**function.__annotations__, "return": Answer}
    return wrapped


def plain(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Errors as one line for the client."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Answer:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise gr.Error(error_line(error), print_exception=False) from error

    return wrapped
