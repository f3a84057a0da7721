"""What `omni123 generate` does with one prompt: samples, ranking, colour, and the files and record of the result.

| asked for | in the folder |
|---|---|
| one sample | `mesh.glb` (or `.obj`, `.stl`, `.ply`), `preview.png`, `result.json` and, where the checkpoint makes one, `image.png` |
| `--num-samples N` | `sample_1/` to `sample_N/` with a mesh, a preview and an image each, and one `result.json` |
| `--best-of N` | the best candidate as one sample has it, the others in `candidate_2/` (second best) and so on |
"""

import json
import re
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omni123_hf import __version__
from omni123_hf.cli.info import LIBRARIES, library_version
from omni123_hf.errors import Omni123Error


RECORD = "result.json"
MAX_NAME = 60
OWN_FOLDER = re.compile(r"(sample|candidate)_\d+")
OWN_MESH = re.compile(r"mesh\.(glb|obj|stl|ply)")


@dataclass(frozen=True)
class Request:
    """What is asked for of every prompt. settings: of the pipeline's call, without seed and number of samples."""

    model: str
    device: str
    seed: int
    settings: dict[str, Any]
    num_samples: int | None = None
    best_of: int | None = None
    color: str | None = None
    texture_size: int = 1024
    preview_every: int | None = None
    finish: Any = None
    mesh_format: str = "glb"

    @property
    def mesh_name(self) -> str:
        return f"mesh.{self.mesh_format}"

    @property
    def count(self) -> int:
        return self.best_of or self.num_samples or 1

    def check(self) -> None:
        """Raises `Omni123Error` for what cannot be, before anything is loaded."""
        if self.num_samples is not None and self.best_of is not None:
            raise Omni123Error("give --num-samples to keep all, or --best-of to rank them, not both")
        for option, value in (("--num-samples", self.num_samples), ("--best-of", self.best_of)):
            if value is not None and not 1 <= value <= 64:
                raise Omni123Error(f"{option} must be 1 to 64; got {value}")
        if self.count > 1 and self.settings["temperature"] == 0:
            raise Omni123Error("at --temperature 0 all samples are the same; add, for example, --temperature 1")
        if self.preview_every is not None and self.preview_every < 1:
            raise Omni123Error(f"--preview-every must be at least 1 code; got {self.preview_every}")

    def check_pipeline(self, pipeline: Any) -> None:
        """Raises `Omni123Error` for what this checkpoint cannot do."""
        if self.color is not None:
            from omni123_hf.pipelines.coloring import check_coloring

            check_coloring(pipeline, self.color, self.texture_size)
        if self.best_of is not None and pipeline.task != "text-to-image-to-3d":
            raise Omni123Error(
                f"--best-of compares the image with the shape, and {self.model!r} makes no image; use --num-samples"
            )


@dataclass
class Outcome:
    """record: the content of result.json. names: files and folders of the result. failure: why there is no mesh at all."""

    record: dict[str, Any]
    names: list[str] = field(default_factory=list)
    failure: str | None = None


def run_prompt(
    pipeline: Any,
    prompt: str,
    request: Request,
    staging: Path,
    out: Path,
    callbacks: dict[str, Any],
    load_seconds: float,
) -> Outcome:
    """Generates, ranks, colours and writes into `staging`. out: where previews go while it works."""
    from omni123_hf.geometry.printable import print_facts

    started = time.perf_counter()
    if request.preview_every is not None:
        callbacks = with_previews(pipeline, request.preview_every, out, callbacks)
    output = pipeline(
        prompt,
        seed=request.seed,
        num_samples=request.count,
        finish=request.finish,
        **request.settings,
        **callbacks,
    )
    seconds = {"load": load_seconds, **output.timings}
    order = list(range(request.count))
    scores: list[Any] | None = None
    if request.best_of is not None:
        from omni123_hf.pipelines.ranking import rank_candidates

        with_part = time.perf_counter()
        ranked = rank_candidates(
            pipeline, prompt, output.image_tokens, output.shape_tokens, output.images, output.meshes
        )
        scores = ranked
        # A candidate without a surface is never the best, whatever its image.
        order.sort(key=lambda row: (output.meshes[row] is None, -ranked[row].score))
        seconds["ranking"] = time.perf_counter() - with_part
    folders = ["" for _ in order]
    if request.best_of is not None:
        folders[1:] = [f"candidate_{place}" for place in range(2, request.count + 1)]
    elif request.num_samples is not None:
        folders = [f"sample_{place}" for place in range(1, request.count + 1)]

    finish = {} if request.finish is None or request.finish.changes_nothing else {"finish": asdict(request.finish)}
    facts = {
        "seed": request.seed,
        "settings": {**request.settings, **finish, "format": request.mesh_format, "device": request.device},
    }
    colors: list[dict[str, Any] | None] = [None] * request.count
    samples = []
    for folder, row in zip(folders, order, strict=True):
        mesh = output.meshes[row]
        if mesh is not None and request.color is not None:
            with_part = time.perf_counter()
            mesh, colors[row] = colored(pipeline, mesh, output.shape_tokens[row], prompt, request)
            seconds["color"] = seconds.get("color", 0.0) + time.perf_counter() - with_part
        image = None if output.images is None else output.images[row]
        written = {"prompt": prompt, "sample": row, **facts}
        write_sample(pipeline, staging / folder / request.mesh_name, mesh, image, written, request.model)
        samples.append(
            {
                "folder": folder or ".",
                "sample": row,
                "mesh": output.health[row],
                "print": print_facts(output.meshes[row]),
                "extraction": output.extraction[row],
                "failure": output.failures[row],
                **({} if scores is None else {"score": scores[row].to_dict()}),
                **({} if request.color is None else {"color": colors[row]}),
            }
        )
    first = order[0]
    record: dict[str, Any] = {
        "prompt": prompt,
        "seed": request.seed,
        "task": pipeline.task,
        "model": {"name": request.model, "revision": pipeline.revision, "adapters": pipeline.describe_adapters()},
        "settings": facts["settings"],
        "tokens": count_tokens(pipeline, prompt, output),
        "seconds": seconds,
        "mesh": output.health[first],
        "print": samples[0]["print"],
        "extraction": output.extraction[first],
        "failure": output.failures[first],
        **({} if request.color is None else {"color": colors[first]}),
        **({} if request.best_of is None and request.num_samples is None else {"samples": samples}),
        "licences": pipeline.licences,
        "versions": {"omni123-hf": __version__, **{name: library_version(name) for name in LIBRARIES}},
    }
    seconds["total"] = load_seconds + time.perf_counter() - started
    record["seconds"] = {part: round(value, 3) for part, value in seconds.items()}
    (staging / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    failed = all(mesh is None for mesh in output.meshes)
    names = ["image.png", request.mesh_name, "preview.png", *(name for name in folders if name), RECORD]
    return Outcome(record, names, record["failure"] if failed else None)


def colored(pipeline: Any, mesh: Any, tokens: Any, prompt: str, request: Request) -> tuple[Any, dict[str, Any]]:
    """The mesh in colour and the facts for the record; the mesh as it is, with the reason, where no picture meets it."""
    from omni123_hf.pipelines.coloring import color_mesh

    try:
        made = color_mesh(pipeline, mesh, tokens, prompt, mode=str(request.color), texture_size=request.texture_size)
    except Omni123Error as error:
        return mesh, {"mode": request.color, "failure": str(error)}
    return made.mesh, {"mode": request.color, "seen_share": round(made.seen_share, 4)}


def with_previews(pipeline: Any, every: int, out: Path, callbacks: dict[str, Any]) -> dict[str, Any]:
    """The callbacks, with `preview_mesh.glb` in `out` replaced every few shape codes."""
    from omni123_hf.geometry.export import export_glb
    from omni123_hf.pipelines.preview_callback import PreviewCallback

    def write(mesh: Any, step: int, total: int, row: int) -> None:
        if mesh is not None:
            export_glb(mesh, out / PREVIEW_MESH, {"step": step, "total": total})

    preview = PreviewCallback(pipeline, write, every=every, rows=1, then=callbacks.get("callback_on_step_end"))
    return {**callbacks, "callback_on_step_end": preview}


PREVIEW_MESH = "preview_mesh.glb"


def write_sample(pipeline: Any, path: Path, mesh: Any, image: Any, facts: dict[str, Any], name: str) -> None:
    """The picture where the pipeline makes one and, where there is a surface, the mesh at `path` and the preview."""
    from omni123_hf.geometry.export import export_mesh
    from omni123_hf.geometry.preview import contact_sheet
    from omni123_hf.pipelines.provenance import provenance

    path.parent.mkdir(exist_ok=True)
    if image is not None:
        image.save(path.with_name("image.png"))
    if mesh is not None:
        export_mesh(mesh, path, provenance(pipeline, name, **facts))
        contact_sheet(mesh, image=image).save(path.with_name("preview.png"))


def count_tokens(pipeline: Any, prompt: str, output: Any) -> dict[str, int]:
    """Prompt tokens as each text encoder reads them, and the generated codes of one sample."""
    counts = {"text": len(pipeline.tokenizer(prompt, truncation=True)["input_ids"])}
    if pipeline.tokenizer_2 is not None:
        counts["text_2"] = len(pipeline.tokenizer_2(prompt)["input_ids"])
    if output.image_tokens is not None:
        counts["image"] = int(output.image_tokens.shape[1])
    return {**counts, "shape": int(output.shape_tokens.shape[1])}


def forget_earlier(out: Path, kept: list[str]) -> None:
    """Remove the folders of samples and the mesh in another format that an earlier run recorded in `out` and this one did not
    make."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        folders = [str(sample["folder"]) for sample in record.get("samples") or []]
        mesh = f"mesh.{recorded_format(record)}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # No record, or not one of ours: nothing there is ours to remove.
        return
    for name in folders:
        if OWN_FOLDER.fullmatch(name) and name not in kept:
            shutil.rmtree(out / name, ignore_errors=True)
    if OWN_MESH.fullmatch(mesh) and mesh not in kept:
        (out / mesh).unlink(missing_ok=True)


def recorded_format(record: dict[str, Any]) -> str:
    """The format of a result's meshes; records from before there was a choice have none, and their meshes are GLB."""
    return str(record["settings"].get("format", "glb"))


def is_made(folder: Path, mesh_format: str) -> bool:
    """Whether a prompt of a batch has its result. Raises `Omni123Error` for one in another format, which would stay as it is."""
    try:
        found = recorded_format(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Omni123Error(f"{folder / RECORD} is no record of a result; remove it, or give another --out") from error
    if found != mesh_format:
        raise Omni123Error(
            f"{folder.name} has its mesh as {found}; go on with --format {found}, or give another --out"
        )
    return True


def read_prompts(source: Path) -> list[tuple[str, str]]:
    """(name of the result's folder, prompt) of each line of a file, or of each .txt of a folder. Raises `Omni123Error`."""
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix.lower() == ".txt" and path.is_file())
        found = [(path.stem, " ".join(read_text(path).split())) for path in files]
        if not found:
            raise Omni123Error(f"the folder {str(source)!r} holds no .txt file with a prompt")
    elif source.is_file():
        lines = [line.strip() for line in read_text(source).splitlines()]
        found = [(f"{number:04d}_{slug(line)}", line) for number, line in enumerate(lines, 1) if line]
        if not found:
            raise Omni123Error(f"the file {str(source)!r} holds no prompt; write one a line")
    else:
        raise Omni123Error(f"--prompts {str(source)!r} is no file and no folder")
    empty = next((name for name, prompt in found if not prompt), None)
    if empty is not None:
        raise Omni123Error(f"{empty}.txt in {str(source)!r} is empty; write a prompt into it, or remove it")
    return found


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Omni123Error(f"{path.name!r} is no text in UTF-8") from error


def slug(text: str) -> str:
    """A prompt as a part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:MAX_NAME] or "prompt"
