"""What the commands of the tasks share: one input or a folder of them, a record of each result, and resuming."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from omni123_hf import __version__
from omni123_hf.cli.generate import load_pipeline, progress_callbacks, publish, staging_folder
from omni123_hf.errors import Omni123Error


RECORD = "result.json"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass
class Result:
    """What one input gave: the files that were written into `folder`, and the facts for the record."""

    files: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


Make = Callable[[Any, Path, Path, dict[str, Any]], Result]


@dataclass
class TaskRun:
    """One command's run: a pipeline, the settings of its calls, and how to talk."""

    class_name: str
    model: str
    device: str
    settings: dict[str, Any]
    quiet: bool
    as_json: bool

    def run(self, source: Path, suffixes: tuple[str, ...], out: Path, make: Make) -> None:
        """`make(pipeline, input, folder, callbacks)` for a file, or for each file of a folder into a folder of its own.

        Of a folder, results that are there already are left alone, so a stopped run goes on. Exit code 1 when an input gave
        no result, as `omni123 generate` has it.
        """
        inputs = inputs_of(source, suffixes)
        pairs = [(inputs[0], out)] if source.is_file() else [(path, out / path.stem) for path in inputs]
        waiting = [(path, folder) for path, folder in pairs if source.is_file() or not (folder / RECORD).is_file()]
        skipped = len(pairs) - len(waiting)
        if not waiting:
            self.say(f"{out}: all {skipped} results are there already")
            return
        pipeline: Any = load_pipeline(self.model, self.device, self.class_name)
        failed = 0
        for path, folder in waiting:
            failed += not self.one(pipeline, path, folder, make, is_batch=not source.is_file())
        if len(pairs) > 1:
            self.say(f"{out}: {len(waiting) - failed} made, {failed} failed, {skipped} there already")
        if failed:
            raise typer.Exit(1)

    def run_text(self, name: str, out: Path, make: Make) -> None:
        """As `run`, for a prompt in place of a file."""
        pipeline: Any = load_pipeline(self.model, self.device, self.class_name)
        if not self.one(pipeline, Path(name.replace("/", " ")), out, make, is_batch=False):
            raise typer.Exit(1)

    def one(self, pipeline: Any, path: Path, folder: Path, make: Make, is_batch: bool) -> bool:
        """One input; whether it gave a result. Of a batch, an input that cannot be used is said and passed over."""
        started = time.perf_counter()
        try:
            with staging_folder(folder) as staging, progress_callbacks(self.quiet or self.as_json) as callbacks:
                result = make(pipeline, path, staging, callbacks)
                record = {
                    "input": path.name,
                    "task": pipeline.task,
                    "model": {"name": self.model, "revision": pipeline.revision},
                    "settings": {**self.settings, "device": self.device},
                    **result.facts,
                    "failure": result.failure,
                    "omni123_hf": __version__,
                    "seconds": round(time.perf_counter() - started, 3),
                }
                (staging / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
                publish(staging, folder, [*result.files, RECORD])
        except Omni123Error as error:
            if not is_batch:
                raise
            print(f"error: {path.name}: {' '.join(str(error).split())}", file=sys.stderr)
            return False
        if self.as_json:
            typer.echo(json.dumps({**record, "folder": str(folder), "files": result.files}))
        elif result.failure is not None:
            print(f"error: {path.name}: {result.failure}", file=sys.stderr)
        else:
            self.say(f"{folder}: {', '.join(result.files)}; {record['seconds']:.1f} s")
        return result.failure is None

    def say(self, text: str) -> None:
        if not self.as_json:
            typer.echo(text)


def inputs_of(source: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, or the files of a folder with one of `suffixes`, by name. Raises `Omni123Error` for neither."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise Omni123Error(f"{str(source)!r} is no file and no folder")
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise Omni123Error(f"the folder {str(source)!r} holds no file of {', '.join(suffixes)}")
    stems = [path.stem for path in found]
    repeated = next((stem for stem in stems if stems.count(stem) > 1), None)
    if repeated is not None:
        raise Omni123Error(f"two files of {str(source)!r} are called {repeated!r}; their results would share a folder")
    return found


def write_mesh(
    mesh: Any,
    health: dict[str, Any] | None,
    failure: str | None,
    folder: Path,
    suffix: str,
    facts: dict[str, Any],
    image: Any = None,
) -> Result:
    """`mesh.SUFFIX` and `preview.png`, or the reason why there is none."""
    from omni123_hf.geometry.export import export_mesh
    from omni123_hf.geometry.preview import contact_sheet
    from omni123_hf.geometry.printable import print_facts

    if mesh is None:
        return Result(facts={"mesh": None}, failure=f"the model gave no surface: {failure}")
    name = f"mesh.{suffix}"
    export_mesh(mesh, folder / name, facts)
    contact_sheet(mesh, image=image).save(folder / "preview.png")
    return Result([name, "preview.png"], {"mesh": health, "print": print_facts(mesh)})
