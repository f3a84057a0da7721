"""Pipelines: one file a task. What happens between a prompt and a GLB is a pipeline's `__call__`."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.pipelines.pipeline_base import Omni123PipelineBase
    from omni123_hf.pipelines.pipeline_edit import Omni123EditPipeline
    from omni123_hf.pipelines.pipeline_image_to_3d import Omni123ImageTo3DPipeline
    from omni123_hf.pipelines.pipeline_joint import Omni123JointPipeline
    from omni123_hf.pipelines.pipeline_multi_view import Omni123MultiViewPipeline
    from omni123_hf.pipelines.pipeline_novel_view import Omni123NovelViewPipeline
    from omni123_hf.pipelines.pipeline_output import Omni123EditOutput, Omni123MultiViewOutput, Omni123PipelineOutput
    from omni123_hf.pipelines.pipeline_shape_to_image import Omni123ShapeToImagePipeline
    from omni123_hf.pipelines.pipeline_text_to_3d import Omni123TextTo3DPipeline
    from omni123_hf.pipelines.pipeline_text_to_image import Omni123TextToImagePipeline

__all__ = [
    "Omni123EditOutput",
    "Omni123EditPipeline",
    "Omni123ImageTo3DPipeline",
    "Omni123JointPipeline",
    "Omni123MultiViewOutput",
    "Omni123MultiViewPipeline",
    "Omni123NovelViewPipeline",
    "Omni123PipelineOutput",
    "Omni123ShapeToImagePipeline",
    "Omni123TextTo3DPipeline",
    "Omni123TextToImagePipeline",
    "load_pipeline",
]

PIPELINES = {
    "Omni123EditPipeline": "pipeline_edit",
    "Omni123ImageTo3DPipeline": "pipeline_image_to_3d",
    "Omni123JointPipeline": "pipeline_joint",
    "Omni123MultiViewPipeline": "pipeline_multi_view",
    "Omni123NovelViewPipeline": "pipeline_novel_view",
    "Omni123ShapeToImagePipeline": "pipeline_shape_to_image",
    "Omni123TextTo3DPipeline": "pipeline_text_to_3d",
    "Omni123TextToImagePipeline": "pipeline_text_to_image",
}
_MODULES = {
    **PIPELINES,
    **dict.fromkeys(("Omni123EditOutput", "Omni123MultiViewOutput", "Omni123PipelineOutput"), "pipeline_output"),
}


def __getattr__(name: str) -> Any:
    # Late, because `pipelines.registry` serves commands that must answer without loading torch.
    if name in _MODULES:
        return getattr(import_module(f"omni123_hf.pipelines.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_pipeline(name: str, **kwargs: Any) -> "Omni123PipelineBase":
    """Load a checkpoint as the pipeline that its index names; arguments as in `Omni123PipelineBase.from_pretrained`.

    Raises `Omni123Error` as that does, and for an index that names another class.
    """
    from omni123_hf.pipelines.pipeline_base import HUB_ARGUMENTS, Omni123PipelineBase
    from omni123_hf.pipelines.registry import read_index, resolve_checkpoint

    folder = resolve_checkpoint(name)
    if folder is None:
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        index = read_index(Path(Omni123PipelineBase.download(name, **hub)))
    else:
        index = read_index(folder)
    class_name = str(index.get("_class_name"))
    if class_name not in PIPELINES:
        raise Omni123Error(
            f"the checkpoint {name!r} was saved from {class_name}; this version has {', '.join(PIPELINES)}: update omni123-hf"
        )
    return __getattr__(class_name).from_pretrained(name, **kwargs)
