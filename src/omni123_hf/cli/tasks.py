"""`omni123 image-to-3d`, `render-views`, `multiview`, `edit`, `tokenize` and `detokenize`: the tasks beside `generate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from omni123_hf.cli.options import (
    AsJson,
    Color,
    Device,
    Extraction,
    Floaters,
    Format,
    GuidanceScale,
    LongestSide,
    Model,
    Out,
    Prompt,
    Quiet,
    Resolution,
    Seed,
    TargetFaces,
    Temperature,
    TextureSize,
    TopK,
    TopP,
    Views,
    check_color,
    check_format,
    finish_settings,
    split_views,
)
from omni123_hf.cli.task_run import IMAGE_SUFFIXES, Result, TaskRun, write_mesh
from omni123_hf.errors import Omni123Error


MINI = "omni123-mini"
SIX = "front,back,left,right,top,bottom"


def register(app: typer.Typer) -> None:
    """Add the commands to `omni123`."""
    app.command("image-to-3d")(image_to_3d)
    app.command("render-views")(render_views)
    app.command()(multiview)
    app.command()(edit)
    app.command()(tokenize)
    app.command()(detokenize)


def image_to_3d(
    image: Annotated[Path, typer.Argument(help="A picture (PNG, JPEG, WebP), or a folder of them.")],
    out: Out,
    prompt: Prompt = None,
    model: Model = MINI,
    seed: Seed = 0,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    resolution: Resolution = 96,
    extraction: Extraction = "safe",
    target_faces: TargetFaces = None,
    remove_floaters: Floaters = 0.0,
    longest_side: LongestSide = None,
    color: Color = None,
    texture_size: TextureSize = 1024,
    mesh_format: Format = "glb",
    device: Device = "cpu",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """A watertight mesh from a picture of an object on a plain background, or from each picture of a folder."""
    settings = sampling(seed, guidance_scale, temperature, top_k, top_p) | {
        "resolution": resolution,
        "extraction": extraction,
    }
    finish = finish_settings(target_faces, remove_floaters, longest_side)
    suffix = check_format(mesh_format, check_color(color, texture_size, longest_side))

    def make(pipeline: Any, path: Path, folder: Path, callbacks: dict[str, Any]) -> Result:
        output = pipeline(path, prompt, finish=finish, **settings, **callbacks)
        mesh, colors = in_color(pipeline, output, prompt, color, texture_size, model, device)
        facts = provenance(pipeline, model, prompt=prompt, seed=seed, settings=settings, image=path.name)
        result = write_mesh(mesh, output.health[0], output.failures[0], folder, suffix, facts)
        result.facts |= colors
        result.facts["extraction"] = output.extraction[0]
        return result

    TaskRun("Omni123ImageTo3DPipeline", model, device, settings, quiet, as_json).run(image, IMAGE_SUFFIXES, out, make)


def render_views(
    mesh: Annotated[Path, typer.Argument(help="A mesh file, or a folder of them.")],
    out: Out,
    prompt: Prompt = None,
    views: Views = SIX,
    model: Model = MINI,
    seed: Seed = 0,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The model's pictures of a mesh from named views, one file each."""
    from omni123_hf.geometry.loading import supported_suffixes
    from omni123_hf.pipelines.views import check_distinct

    names = check_distinct(split_views(views))
    settings = sampling(seed, guidance_scale, temperature, top_k, top_p)

    def make(pipeline: Any, path: Path, folder: Path, callbacks: dict[str, Any]) -> Result:
        callbacks.pop("callback_on_extraction", None)
        output = pipeline([path] * len(names), prompt, view=names, **settings, **callbacks)
        for name, picture in zip(names, output.images, strict=True):
            picture.save(folder / f"{name}.png")
        return Result([f"{name}.png" for name in names], {"views": names})

    run = TaskRun("Omni123ShapeToImagePipeline", model, device, settings, quiet, as_json)
    run.run(mesh, tuple(supported_suffixes()), out, make)


def multiview(
    prompt: Annotated[str, typer.Argument(help="What to make.")],
    out: Out,
    views: Views = "front,back,left,right",
    extra_views: Annotated[
        str, typer.Option("--extra-views", help="Views to draw after the shape, with commas.")
    ] = "",
    model: Model = MINI,
    seed: Seed = 0,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    resolution: Resolution = 96,
    extraction: Extraction = "safe",
    target_faces: TargetFaces = None,
    remove_floaters: Floaters = 0.0,
    longest_side: LongestSide = None,
    mesh_format: Format = "glb",
    device: Device = "cpu",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Posed pictures of one object, the shape they show, and more pictures of it, in one sequence."""
    from omni123_hf.pipelines.views import check_distinct

    first, more = split_views(views), split_views(extra_views)
    check_distinct([*first, *more])
    settings = sampling(seed, guidance_scale, temperature, top_k, top_p) | {
        "resolution": resolution,
        "extraction": extraction,
    }
    finish = finish_settings(target_faces, remove_floaters, longest_side)
    suffix = check_format(mesh_format)

    def make(pipeline: Any, path: Path, folder: Path, callbacks: dict[str, Any]) -> Result:
        output = pipeline(prompt, views=first, extra_views=more, finish=finish, **settings, **callbacks)
        for name, picture in zip(output.views[0], output.images[0], strict=True):
            picture.save(folder / f"{name}.png")
        facts = provenance(pipeline, model, prompt=prompt, seed=seed, settings=settings)
        result = write_mesh(output.meshes[0], output.health[0], output.failures[0], folder, suffix, facts)
        result.files = [*(f"{name}.png" for name in output.views[0]), *result.files]
        result.facts |= {"prompt": prompt, "views": output.views[0], "extraction": output.extraction[0]}
        return result

    TaskRun("Omni123MultiViewPipeline", model, device, settings, quiet, as_json).run_text(prompt, out, make)


def edit(
    instruction: Annotated[str, typer.Argument(help="What to change, for example 'add armrests'.")],
    mesh: Annotated[Path | None, typer.Option("--mesh", help="The mesh file to edit.")] = None,
    session: Annotated[
        Path | None,
        typer.Option("--session", help="Folder of an editing session: begun with --mesh, then gone on with."),
    ] = None,
    at: Annotated[
        int | None, typer.Option("--at", help="Number of the node to edit; the current one if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for one result, without a session.")] = None,
    model: Model = MINI,
    seed: Seed = 0,
    guidance_scale: GuidanceScale = None,
    source_bias: Annotated[
        float | None,
        typer.Option(
            "--source-bias",
            help="Keep more (or, below 0, less) of the shape: added to the logits of its codes. By default the checkpoint's.",
        ),
    ] = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    resolution: Resolution = 96,
    color: Color = None,
    texture_size: TextureSize = 1024,
    extraction: Extraction = "safe",
    mesh_format: Format = "glb",
    device: Device = "cpu",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Change a mesh as an instruction says; with --session, as a step in a tree of edits that can be gone back in."""
    if (out is None) == (session is None):
        raise Omni123Error("give --out for one result, or --session for a tree of edits")
    settings = sampling(seed, guidance_scale, temperature, top_k, top_p) | {
        "source_bias": source_bias,
        "resolution": resolution,
        "extraction": extraction,
    }
    check_color(color, texture_size)
    if session is not None:
        if color is not None:
            raise Omni123Error("--color belongs to --out; the nodes of a session are plain shapes")
        edit_session(session, mesh, instruction, at, settings, model, device, as_json)
        return
    if mesh is None or at is not None or out is None:
        raise Omni123Error("--out needs --mesh, and --at belongs to --session")
    suffix = check_format(mesh_format, color)

    def make(pipeline: Any, path: Path, folder: Path, callbacks: dict[str, Any]) -> Result:
        output = pipeline(path, instruction, **settings, **callbacks)
        colored, colors = in_color(pipeline, output, None, color, texture_size, model, device)
        facts = provenance(
            pipeline, model, instruction=instruction, seed=seed, settings=settings, edit_parent=path.name
        )
        result = write_mesh(colored, output.health[0], output.failures[0], folder, suffix, facts)
        result.facts |= colors | {
            "instruction": instruction,
            "changed": output.changed[0],
            "locality": output.locality[0],
            "extraction": output.extraction[0],
        }
        return result

    from omni123_hf.geometry.loading import supported_suffixes

    run = TaskRun("Omni123EditPipeline", model, device, settings, quiet, as_json)
    run.run(mesh, tuple(supported_suffixes()), out, make)


def edit_session(
    folder: Path,
    mesh: Path | None,
    instruction: str,
    at: int | None,
    settings: dict[str, Any],
    model: str,
    device: str,
    as_json: bool,
) -> None:
    """One step of a session: it is begun when the folder is not there, and goes on otherwise."""
    from omni123_hf.cli.generate import load_pipeline
    from omni123_hf.pipelines.edit_session import EditSession

    if folder.exists() == (mesh is not None):
        raise Omni123Error(
            f"{str(folder)!r} is there already; leave out --mesh to go on with it"
            if folder.exists()
            else f"{str(folder)!r} does not exist; give --mesh to begin a session"
        )
    pipeline: Any = load_pipeline(model, device, "Omni123EditPipeline")
    tree = EditSession(pipeline, mesh, settings["resolution"]) if mesh else EditSession.load(folder, pipeline)
    node = tree.edit(instruction, at=at, **settings)
    tree.save(folder)
    if as_json:
        typer.echo(json.dumps(node.facts()))
    else:
        share = f"{node.locality['changed_volume_share']:.1%} of the volume changed" if node.locality else ""
        typer.echo(f"{folder}: node {node.number}, from {node.parent}; {node.failure or share}")


def tokenize(
    source: Annotated[Path, typer.Argument(help="A mesh file or a picture.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")],
    model: Model = MINI,
    device: Device = "cpu",
) -> None:
    """The tokens of a mesh or a picture, as JSON that `detokenize` reads."""
    from omni123_hf.cli.generate import load_pipeline
    from omni123_hf.geometry.export import write_atomic
    from omni123_hf.pipelines.shape_input import encode_shapes

    if not source.is_file():
        raise Omni123Error(f"{str(source)!r} is no file")
    pipeline: Any = load_pipeline(model, device)
    kind = "image" if source.suffix.lower() in IMAGE_SUFFIXES else "shape"
    need(pipeline, kind, model)
    tokens = (
        pipeline.encode_images(source) if kind == "image" else encode_shapes(source, pipeline.shape_tokenizer).tokens
    )
    record = {"kind": kind, "model": model, "revision": pipeline.revision, "tokens": tokens[0].tolist()}
    write_atomic(out, (json.dumps(record) + "\n").encode())
    typer.echo(f"{out}: {len(record['tokens'])} {kind} tokens")


def detokenize(
    source: Annotated[Path, typer.Argument(help="JSON file that `tokenize` wrote.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Mesh (.glb, .obj, .stl, .ply) or picture (.png) to write.")
    ],
    model: Model = MINI,
    resolution: Resolution = 96,
    extraction: Extraction = "safe",
    device: Device = "cpu",
) -> None:
    """The mesh or picture that tokens stand for."""
    import io

    import torch

    from omni123_hf.cli.generate import load_pipeline
    from omni123_hf.geometry.export import FORMATS, export_mesh, write_atomic
    from omni123_hf.geometry.extraction import check_mode
    from omni123_hf.pipelines.pipeline_base import check_resolution
    from omni123_hf.pipelines.shape_input import checked_tokens

    kind, values = read_tokens(source)
    wanted = FORMATS if kind == "shape" else (".png",)
    if out.suffix.lower() not in wanted:
        raise Omni123Error(f"{out.name!r} cannot hold {kind} tokens; use one of {', '.join(wanted)}")
    check_resolution(resolution)
    check_mode(extraction)
    pipeline: Any = load_pipeline(model, device)
    need(pipeline, kind, model)
    if kind == "shape":
        tokens = checked_tokens(torch.tensor(values), pipeline.shape_tokenizer).to(pipeline.device)
        with torch.no_grad():
            meshes, failures = pipeline.decode_shapes(tokens, resolution, extraction=extraction)
        if meshes[0] is None:
            raise Omni123Error(f"the tokens have no surface: {failures[0]}")
        export_mesh(meshes[0], out, provenance(pipeline, model, tokens=source.name))
    else:
        config = pipeline.image_tokenizer.config
        if len(values) != config.num_tokens or not all(0 <= value < config.num_codes for value in values):
            raise Omni123Error(
                f"image tokens of this checkpoint are {config.num_tokens} numbers from 0 to {config.num_codes - 1}"
            )
        with torch.no_grad():
            picture = pipeline.decode_images(torch.tensor([values]).to(pipeline.device))[0]
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        write_atomic(out, buffer.getvalue())
    typer.echo(out)


def provenance(pipeline: Any, name: str, **facts: Any) -> dict[str, Any]:
    """`pipelines.provenance.provenance`, which cannot be imported before a command runs: it must answer --help without torch."""
    from omni123_hf.pipelines.provenance import provenance as facts_of

    return facts_of(pipeline, name, **facts)


def in_color(
    pipeline: Any, output: Any, prompt: str | None, color: str | None, texture_size: int, model: str, device: str
) -> tuple[Any, dict[str, Any]]:
    """The first mesh of an output, in colour where that is asked for and possible, and the facts for the record."""
    mesh = output.meshes[0]
    if color is None or mesh is None:
        return mesh, {}
    import torch

    from omni123_hf.pipelines import Omni123ShapeToImagePipeline
    from omni123_hf.pipelines.coloring import color_mesh

    if "image_vae" not in pipeline.components:
        # The pipeline of edits leaves out the parts that draw; the others are shared. Its files were checked in loading it.
        shared = {name: part for name, part in pipeline.components.items() if part is not None}
        drawing = Omni123ShapeToImagePipeline.from_pretrained(model, verify_hashes=False, **shared)
        pipeline = drawing.to(torch.device(device))
    try:
        made = color_mesh(pipeline, mesh, output.shape_tokens[0], prompt, mode=color, texture_size=texture_size)
    except Omni123Error as error:
        # No picture meets the mesh: the shape is worth keeping without colour.
        return mesh, {"color": {"mode": color, "failure": str(error)}}
    return made.mesh, {"color": {"mode": color, "seen_share": round(made.seen_share, 4)}}


def read_tokens(path: Path) -> tuple[str, list[int]]:
    """Kind and values of a file of tokens. Raises `Omni123Error`."""
    if not path.is_file():
        raise Omni123Error(f"{str(path)!r} is no file")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kind, values = record["kind"], record["tokens"]
        if kind not in ("shape", "image") or not values or not all(type(value) is int for value in values):
            raise ValueError("kind or tokens are of another form")
    except (ValueError, KeyError, TypeError) as error:
        raise Omni123Error(f"{path.name!r} holds no tokens: {error}") from error
    return kind, values


def need(pipeline: Any, kind: str, model: str) -> None:
    """Raises `Omni123Error` for a checkpoint without the tokenizer of this kind."""
    if getattr(pipeline, f"{kind}_tokenizer", None) is None:
        raise Omni123Error(f"the checkpoint {model!r} has no {kind} tokenizer")


def sampling(
    seed: int, guidance_scale: float | None, temperature: float, top_k: int | None, top_p: float | None
) -> dict[str, Any]:
    return {
        "seed": seed,
        "guidance_scale": guidance_scale,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
