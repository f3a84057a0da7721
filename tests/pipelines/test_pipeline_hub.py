"""A Hub id, a new process, the same tokens: every pipeline, through a small Hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lora_hub import ModelHub
from test_task_pipelines import CLASSES, call, codes

from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines import Omni123TextTo3DPipeline


OPTIONS = {"temperature": 1.0, "seed": 7, "output_type": "tokens"}
FRESH_PROCESS = """
import json, sys
from test_task_pipelines import CLASSES, call, codes
options = json.loads(sys.argv[1])
found = {}
for cls in CLASSES:
    pipeline = cls.from_pretrained("someone/tiny", revision="main")
    found[cls.__name__] = [pipeline.revision, [part.tolist() for part in codes(call(pipeline, **options))]]
print(json.dumps(found))
"""


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny_pipeline_folder):
    """The tiny checkpoint as `someone/tiny`."""
    with ModelHub(tmp_path / "cache", monkeypatch) as hub:
        hub.repos["someone/tiny"] = []
        files = [file for file in sorted(tiny_pipeline_folder.rglob("*")) if file.is_file()]
        hub.commit("someone/tiny", {f.relative_to(tiny_pipeline_folder).as_posix(): f.read_bytes() for f in files})
        yield hub


def test_every_pipeline_from_a_hub_id_in_a_fresh_process_gives_the_same_tokens(hub, tiny_pipeline, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "fresh"),
        "HF_HUB_CACHE": str(tmp_path / "fresh" / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-c", FRESH_PROCESS, json.dumps(OPTIONS)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    there = json.loads(run.stdout.splitlines()[-1])
    for cls in CLASSES:
        here = call(cls.from_pipe(tiny_pipeline), **OPTIONS)
        assert there[cls.__name__] == [tiny_pipeline.revision, [part.tolist() for part in codes(here)]]
    assert any("model.safetensors" in request for request in hub.requests)


def test_an_id_that_is_not_there_is_named(hub):
    with pytest.raises(Omni123Error, match="no checkpoint 'someone/other' on the Hub"):
        Omni123TextTo3DPipeline.from_pretrained("someone/other")
