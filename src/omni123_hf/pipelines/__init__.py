"""Pipelines: one file a task. What happens between a prompt and a GLB is `pipeline_joint.Omni123JointPipeline.__call__`."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from omni123_hf.pipelines.pipeline_joint import Omni123JointPipeline
    from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput

__all__ = ["Omni123JointPipeline", "Omni123PipelineOutput"]


def __getattr__(name: str) -> Any:
    # Late, because `pipelines.registry` serves commands that must answer without loading torch.
    if name == "Omni123JointPipeline":
        from omni123_hf.pipelines.pipeline_joint import Omni123JointPipeline

        return Omni123JointPipeline
    if name == "Omni123PipelineOutput":
        from omni123_hf.pipelines.pipeline_output import Omni123PipelineOutput

        return Omni123PipelineOutput
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
