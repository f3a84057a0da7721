"""What each tab asks of the pipelines. Every function runs inside `Service.run`: it has the model to itself and may be stopped."""

import shutil
import time
from pathlib import Path
from typing import Any

from omni123_hf.app.jobs import Job
from omni123_hf.app.previews import with_previews
from omni123_hf.app.results import Sample, keep, slug, write_sample
from omni123_hf.app.service import Service, Settings
from omni123_hf.app.sessions import Session
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.export import export_glb
from omni123_hf.pipelines.edit_session import EditNode, EditSession
from omni123_hf.pipelines.ranking import rank_candidates
from omni123_hf.pipelines.views import check_distinct


GENERATE, IMAGE_TO_3D, MULTI_VIEW, EDIT = "generate", "image-to-3d", "multi-view", "edit"


def generate(
    service: Service, session: Session, job: Job, prompt: str, settings: Settings, rank: bool = False
) -> list[Sample]:
    """Text to an image, where the checkpoint makes one, and a shape; with `rank` the best sample comes first."""
    started = time.perf_counter()
    pipeline = service.models.get(service.models.text_class())
    with with_previews(session, GENERATE, job, pipeline, settings.preview_every) as callbacks:
        output = pipeline(prompt, num_samples=settings.num_samples, **settings.call(), **callbacks)
    count = len(output.meshes)
    order: list[int] = list(range(count))
    scores: list[dict[str, Any] | None] = [None] * count
    if rank and count > 1 and output.images is not None:
        job.stage("ranking the samples")
        found = rank_candidates(
            pipeline, prompt, output.image_tokens, output.shape_tokens, output.images, output.meshes
        )
        scores = [score.to_dict() for score in found]
        order.sort(key=lambda number: -found[number].score)
    facts = service.facts(pipeline.task, settings, prompt=prompt)
    job.stage("writing the files")
    with session.new_folder() as folder:
        samples = [
            write_sample(
                folder,
                sample_name(prompt, settings, place, count),
                {**facts, "sample": number + 1},
                {} if output.images is None else {"image": output.images[number]},
                output.meshes[number],
                output.health[number],
                output.failures[number],
                output.shape_tokens[number],
                {"score": scores[number], "seconds": round(time.perf_counter() - started, 3)},
            )
            for place, number in enumerate(order)
        ]
        return service.publish(session, GENERATE, samples, slug(prompt, "shape"))


def image_to_3d(
    service: Service, session: Session, job: Job, image: Path, prompt: str | None, settings: Settings
) -> list[Sample]:
    """A picture, and a text where there is one, to a shape."""
    started = time.perf_counter()
    job.stage("reading the picture")
    pipeline = service.models.get("Omni123ImageTo3DPipeline")
    with with_previews(session, IMAGE_TO_3D, job, pipeline, settings.preview_every) as callbacks:
        output = pipeline(image, prompt, num_samples=settings.num_samples, **settings.call(), **callbacks)
    facts = service.facts(pipeline.task, settings, prompt=prompt, image=image.name)
    job.stage("writing the files")
    # What the model saw of the picture: its tokens, drawn again.
    seen = pipeline.decode_images(output.image_tokens[:1])[0]
    with session.new_folder() as folder:
        samples = [
            write_sample(
                folder,
                sample_name(prompt or image.stem, settings, number, len(output.meshes)),
                {**facts, "sample": number + 1},
                {"seen": seen},
                output.meshes[number],
                output.health[number],
                output.failures[number],
                output.shape_tokens[number],
                {"seconds": round(time.perf_counter() - started, 3)},
            )
            for number in range(len(output.meshes))
        ]
        return service.publish(session, IMAGE_TO_3D, samples, slug(prompt or image.stem, "shape"))


def multi_view(
    service: Service,
    session: Session,
    job: Job,
    settings: Settings,
    views: list[str],
    prompt: str | None = None,
    extra_views: list[str] | None = None,
    images: list[Path] | None = None,
    mesh: Path | None = None,
) -> list[Sample]:
    """A text to pictures of `views`, a shape and pictures of `extra_views`; pictures of `views` to a shape; a mesh to pictures."""
    started = time.perf_counter()
    more = extra_views or []
    check_distinct([*views, *more])
    pipeline = service.models.get("Omni123MultiViewPipeline")
    job.stage("reading the input")
    with with_previews(session, MULTI_VIEW, job, pipeline, settings.preview_every) as callbacks:
        output = pipeline(
            prompt, images, mesh, views=views, extra_views=more, num_samples=1, **settings.call(), **callbacks
        )
    drawn = [] if output.images is None else list(zip(output.views[0], output.images[0], strict=True))
    has_shape = output.meshes is not None
    source = {"images": [path.name for path in images]} if images else {"source": mesh.name} if mesh else {}
    task = "images-to-3d" if images else "3d-to-images" if mesh else pipeline.task
    facts = service.facts(task, settings, prompt=prompt, views=views, extra_views=more, **source)
    name = slug(prompt or "views", "views")
    job.stage("writing the files")
    with session.new_folder() as folder:
        sample = write_sample(
            folder,
            sample_name(prompt or "views", settings, 0, 1),
            facts,
            dict(drawn),
            output.meshes[0] if has_shape else None,
            output.health[0] if has_shape else None,
            output.failures[0] if has_shape else None,
            output.shape_tokens[0] if has_shape else None,
            {"seconds": round(time.perf_counter() - started, 3)},
        )
        return service.publish(session, MULTI_VIEW, [sample], name)


def begin_edit(service: Service, session: Session, job: Job, mesh: Path | None, resolution: int) -> EditSession:
    """A new tree of edits, from an uploaded mesh or, without one, from the sample that is shown."""
    job.stage("reading the shape")
    pipeline = service.models.get("Omni123EditPipeline")
    if mesh is not None:
        shape: Any = mesh
        source: dict[str, Any] = {"file": mesh.name}
    elif session.shown is not None and session.shown.tokens is not None:
        shape, source = session.shown.tokens, session.shown.record
        source = {key: source[key] for key in ("task", "prompt", "seed", "model", "settings") if key in source}
    else:
        raise Omni123Error("there is no shape to begin with; generate one, or upload a mesh")
    tree = EditSession(pipeline, shape, resolution, job.on_extraction)
    if tree.node.mesh is None:
        raise Omni123Error(f"the model cannot represent this shape ({tree.node.failure}); try another mesh")
    session.tree, session.tree_source = tree, source
    return tree


def edit(
    service: Service, session: Session, job: Job, instruction: str, settings: Settings, at: int | None = None
) -> EditNode:
    """One step in the client's tree, from its current node or from node `at`."""
    tree = session.need_tree()
    if len(tree.nodes) > service.limits.max_edits:
        raise Omni123Error(
            f"this session has {service.limits.max_edits} edits, which is the limit; download the mesh and begin anew with it"
        )
    job.stage("reading the instruction")
    with with_previews(session, EDIT, job, tree.pipeline, settings.preview_every) as callbacks:
        arguments: dict[str, Any] = settings.call() | callbacks
        return tree.edit(instruction, at=at, **arguments)


def edit_files(service: Service, session: Session, is_new: bool = False) -> tuple[Path | None, Path]:
    """The current node's mesh (None where it has no surface) and the whole session as a zip that `omni123 edit` goes on with.

    is_new: whether the node was made just now, so that `--outputs` gets its mesh, once.
    """
    tree = session.need_tree()
    node = tree.node
    with session.new_folder() as folder:
        mesh = None
        if node.mesh is not None:
            extras = {**tree.provenance(node), "task": tree.pipeline.task, "source": session.tree_source}
            mesh = export_glb(node.mesh, folder / f"edit-{node.number}-{slug(node.instruction, 'start')}.glb", extras)
        saved = tree.save(folder / "edit_session")
        archive = Path(shutil.make_archive(str(folder / "edit_session"), "zip", folder, saved.name))
        shutil.rmtree(saved)
        if is_new and mesh is not None:
            keep([Sample(mesh=mesh)], service.outputs, mesh.stem)
        return mesh, archive


def sample_name(text: str, settings: Settings, place: int, count: int) -> str:
    """`a-red-chair_seed7`, and `_2` for the second of several."""
    return f"{slug(text, 'shape')}_seed{settings.seed}" + (f"_{place + 1}" if count > 1 else "")
