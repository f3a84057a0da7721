"""A run that is killed, and a run whose workers are killed, end as an undisturbed one does: byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import trimesh
from preparation_assets import SMALL, FakeAsset

from omni123_hf.data.asset_work import AssetWork
from omni123_hf.data.engines import Job, run_local
from omni123_hf.data.inputs import InputOptions, read_source
from omni123_hf.data.prepare import prepare_dataset
from omni123_hf.data.prepare_shard import read_lines, shard_file
from omni123_hf.data.store import AssetStore
from omni123_hf.errors import Omni123Error


DATA_FILES = (
    "manifest.jsonl",
    "rejected.jsonl",
    "dataset.json",
    "surface.npy",
    "queries.npy",
    "occupancy.npy",
    "views.npy",
)
# What `prepare_dataset` is asked for in another process; the settings are those of SMALL.
COMMAND = """
import sys
from pathlib import Path
from dataclasses import replace
sys.path.insert(0, sys.argv[3])
from preparation_assets import SMALL
from omni123_hf.data.inputs import InputOptions, read_source
from omni123_hf.data.prepare import prepare_dataset
if __name__ == "__main__":
    assets = read_source(sys.argv[1], InputOptions(licence="CC0-1.0"))
    prepare_dataset(assets, sys.argv[2], 2, replace(SMALL, shard_size=2), False)
"""


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """A dozen boxes of different sides and one broken file."""
    folder = tmp_path / "meshes"
    folder.mkdir()
    for number in range(12):
        trimesh.creation.box((1.0, 1.0 + number / 10, 0.5)).subdivide().export(folder / f"box_{number:02d}.ply")
    (folder / "broken.ply").write_bytes(b"ply\nnonsense")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DATA_FILES}


def test_workers_and_shards_give_the_same_data(tmp_path):
    assets = [FakeAsset(f"fake/{i}", "nan" if i == 2 else "ball") for i in range(5)]
    one = prepare_dataset(assets, tmp_path / "one", 1, SMALL, False)
    prepare_dataset(assets, tmp_path / "two", 2, SMALL, False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (
        one.content_hash
        == prepare_dataset(assets, tmp_path / "x", 1, replace(SMALL, shard_size=1), False).content_hash
    )


@pytest.mark.slow
def test_a_run_killed_half_way_goes_on(meshes, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(COMMAND)
    command = [sys.executable, str(script), str(meshes)]
    subprocess.run([*command, str(tmp_path / "whole"), str(Path(__file__).parent)], check=True)

    out = tmp_path / "killed"
    process = subprocess.Popen([*command, str(out), str(Path(__file__).parent)])
    while len(list(out.glob("shards/0*.npz"))) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(Omni123Error, match="no finished data set"):
        AssetStore.open(out)
    done = {file.name: file.stat().st_mtime_ns for file in out.glob("shards/0*.npz")}
    assert 3 <= len(done) < 7
    # A file that the killed process had begun.
    (out / "shards" / ".00006.npz.1").write_bytes(b"half")

    subprocess.run([*command, str(out), str(Path(__file__).parent)], check=True)
    assert contents(out) == contents(tmp_path / "whole")
    assert not (out / "shards").exists()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "workers of the killed run stay behind"


def test_finished_shards_are_not_touched_again(tmp_path):
    assets = [FakeAsset(f"fake/{i}") for i in range(2)]
    job = Job(assets, shard_file(tmp_path, 0))
    assert list(run_local([job], AssetWork(SMALL), 1)) == ["kept", "kept"]
    before = job.path.stat().st_mtime_ns
    assert list(run_local([job], AssetWork(SMALL), 1)) == []
    assert job.path.stat().st_mtime_ns == before
    assert [line["id"] for line in read_lines(job.path, "records")] == ["fake/0", "fake/1"]


def test_a_model_that_cannot_be_reached_stops_the_run_and_not_an_asset(tmp_path):
    with pytest.raises(Omni123Error, match="nobody answers"):
        prepare_dataset([FakeAsset("fake/0")], tmp_path, 1, SMALL, False, captioner=Unreachable())
    assert not (tmp_path / "rejected.jsonl").exists()
    with pytest.raises(Omni123Error, match="other assets or settings"):
        prepare_dataset([FakeAsset("fake/0")], tmp_path, 1, SMALL, False)


class Unreachable:
    """A captioner without its model."""

    identity = {"model": "none"}
    view_size = 16

    def caption(self, request):
        from omni123_hf.data.captioning.backends import BackendError

        raise BackendError("nobody answers")


def test_what_cannot_be_sent_to_a_worker_is_one_clear_line(tmp_path):
    class Local:
        identity = {"model": "none"}

        def caption(self, request):
            raise AssertionError

    with pytest.raises(Omni123Error, match="cannot be sent to a worker"):
        prepare_dataset([FakeAsset("fake/0")], tmp_path, 1, SMALL, False, captioner=Local())


def test_ray_must_be_there_and_the_engine_must_exist(tmp_path, monkeypatch):
    with pytest.raises(Omni123Error, match="unknown engine"):
        prepare_dataset([FakeAsset("fake/0")], tmp_path / "a", 1, SMALL, False, engine="spark")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Omni123Error, match="needs Ray"):
        prepare_dataset([FakeAsset("fake/0")], tmp_path / "b", 1, SMALL, False, engine="ray")


@pytest.mark.slow
def test_ray_workers_that_are_killed_lose_nothing_and_give_nothing_twice(meshes, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    assets = read_source(str(meshes), InputOptions(licence="CC0-1.0"))
    config = replace(SMALL, shard_size=1)
    whole = prepare_dataset(assets, tmp_path / "whole", 1, config, False)

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    killed: set[int] = set()

    def kill_two(kind: str) -> None:
        # Between results: the workers are busy with the next shards.
        for process in psutil.Process().children(recursive=True) if len(killed) < 2 else []:
            if "ray::_shard_task" in process.name() + " ".join(process.cmdline()) and process.pid not in killed:
                os.kill(process.pid, signal.SIGKILL)
                killed.add(process.pid)
                return

    import omni123_hf.data.prepare_run as module

    real = module.run_ray

    def watched(*arguments):
        for kind in real(*arguments):
            kill_two(kind)
            yield kind

    monkeypatch.setattr(module, "run_ray", watched)
    try:
        store = prepare_dataset(assets, tmp_path / "ray", 1, config, False, engine="ray")
    finally:
        ray.shutdown()
    assert len(killed) == 2
    assert store.content_hash == whole.content_hash and contents(tmp_path / "ray") == contents(tmp_path / "whole")
    assert np.unique([record.id for record in store.records]).size == len(store) == 12
