"""A whole pipeline of tiny, real, randomly initialised components (`tiny_pipeline.py`), saved once a test session."""

import sys
from pathlib import Path

import pytest


# Helpers that several rooms' tests share (`tiny_store`) stand beside this file.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny pipeline with `provenance.json`. Read only: copy it before changing anything in it."""
    from tiny_pipeline import build_tiny_pipeline

    from omni123_hf.pipelines.registry import write_provenance

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    build_tiny_pipeline().save_pretrained(folder)
    write_provenance(folder, note="random weights")
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_pipeline_folder: Path):
    """The tiny pipeline as loaded from its folder."""
    from omni123_hf.pipelines import Omni123JointPipeline

    return Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)
