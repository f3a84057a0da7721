"""Coarse meshes of a shape while its codes are still written, as files that the browser fetches and that go with the job.

A preview lies in a folder of the session, under a name that cannot be guessed. At most `KEPT` of them lie there at a time: the
browser may still be fetching the last but one.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trimesh

from omni123_hf.app.jobs import Job
from omni123_hf.app.sessions import Session
from omni123_hf.geometry.export import export_glb
from omni123_hf.pipelines.preview_callback import PreviewCallback


KEPT = 2
# Points on a side of the grid: 1/8 of the work of the page's default of 64.
RESOLUTION = 32


@contextmanager
def with_previews(session: Session, tab: str, job: Job, pipeline: Any, every: int) -> Iterator[dict[str, Any]]:
    """The job's callbacks, as keyword arguments of a pipeline's call, with a preview of the first row every so many shape codes.

    Each preview goes into `job.progress`; its files go when the block ends, however it ends. every: 0 for no previews.
    """
    if not every:
        yield job.callbacks
        return
    with session.new_folder() as folder:
        made: list[Path] = []

        def show(mesh: trimesh.Trimesh | None, step: int, total: int, row: int) -> None:
            if mesh is None:
                return
            made.append(
                export_glb(mesh, folder / f"preview_{step}.glb", {"preview": True, "step": step, "total": total})
            )
            session.previewed.add(tab)
            job.preview = made[-1]
            for old in made[:-KEPT]:
                old.unlink(missing_ok=True)

        callback = PreviewCallback(pipeline, show, every=every, resolution=RESOLUTION, rows=1, then=job.on_step)
        try:
            yield {**job.callbacks, "callback_on_step_end": callback}
        finally:
            job.preview = None
            shutil.rmtree(folder, ignore_errors=True)
