"""Data sets on the Hub as sources, over a server that speaks its protocol."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from omni123_hf.data.store import AssetStore


sys.path.insert(0, str(Path(__file__).parent / "shards"))
from local_hub import LocalHub  # noqa: E402


def glb(height: float) -> bytes:
    return bytes(trimesh.creation.box((1.0, height, 1.0)).subdivide().export(file_type="glb"))


def run(hub: LocalHub, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`omni123 data prepare` in a process of its own: the Hub's libraries read their endpoint when imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    code = "import sys; from omni123_hf.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "data", "prepare", *arguments, "--preset", "mini"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def hub():
    with LocalHub() as server:
        yield server


def test_models_of_an_objaverse_style_repository_are_downloaded_where_they_are_prepared(hub, tmp_path):
    entries = {uid: {"name": f"{uid} box", "license": "by"} for uid in ("tall", "flat")}
    hub.repos["some/objects"] = []
    commit = hub.commit(
        "some/objects",
        {
            "metadata/000.json.gz": gzip.compress(json.dumps(entries).encode()),
            "object-paths.json.gz": gzip.compress(json.dumps({uid: f"glbs/{uid}.glb" for uid in entries}).encode()),
            "glbs/tall.glb": glb(2.0),
            "glbs/flat.glb": glb(0.5),
            "glbs/huge_and_never_asked_for.glb": b"",
        },
    )
    done = run(hub, tmp_path, f"hf://some/objects@{commit}", "--out", "set")
    assert done.returncode == 0, done.stderr
    records = AssetStore.open(tmp_path / "set").records
    assert [(r.id, r.licence, r.captions["short"]) for r in records] == [
        ("flat", "CC-BY-4.0", ["flat box"]),
        ("tall", "CC-BY-4.0", ["tall box"]),
    ]
    assert not any("huge_and_never" in request for request in hub.requests)


@pytest.mark.slow
def test_rows_of_a_data_set_of_meshes(hub, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pytest.importorskip("datasets")
    rows = [
        {"model": glb(h), "caption": f"box {h}", "license": "cc0", "uid": f"b{i}"} for i, h in enumerate((1.0, 2.0))
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    hub.repos["some/rows"] = []
    hub.commit("some/rows", {"README.md": b"---\n---\n", "data/train-00000-of-00001.parquet": buffer.getvalue()})
    done = run(hub, tmp_path, "some/rows", "--out", "set", "--workers", "2")
    assert done.returncode == 0, done.stderr
    records = AssetStore.open(tmp_path / "set").records
    assert [(r.id, r.licence, r.source) for r in records] == [("b0", "CC0-1.0", "rows"), ("b1", "CC0-1.0", "rows")]


@pytest.mark.slow
def test_a_hub_that_is_gone_half_way_stops_the_run_and_rejects_nothing(hub, tmp_path):
    entries = {f"uid{i}": {"name": f"box {i}", "license": "cc0"} for i in range(2)}
    hub.repos["some/objects"] = []
    files = {"metadata.json": json.dumps(entries).encode(), "uid0.glb": glb(1.0), "uid1.glb": glb(2.0)}
    commit = hub.commit("some/objects", files)
    real = type(hub).files

    def without_models(repo: str, revision: str = "main") -> dict[str, bytes]:
        if hub.requests[-1].endswith(".glb"):
            raise ConnectionError
        return real(hub, repo, revision)

    hub.files = without_models  # type: ignore[method-assign]
    stopped = run(hub, tmp_path, "some/objects", "--out", "set")
    assert stopped.returncode == 2 and "cannot be downloaded" in stopped.stderr, stopped.stderr
    assert not (tmp_path / "set/rejected.jsonl").exists()
    del hub.files
    done = run(hub, tmp_path, "some/objects", "--out", "set")
    assert done.returncode == 0 and len(AssetStore.open(tmp_path / "set")) == 2, done.stderr
    assert any(commit in request for request in hub.requests)

    unknown = run(hub, tmp_path, "some/nothing", "--out", "other")
    assert unknown.returncode == 2 and "neither a path here nor a data set" in unknown.stderr
