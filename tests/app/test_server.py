"""The HTTP API of a running server: what a client gets, what it is refused, and that the server outlives it all."""

import re
import threading
import zipfile
from pathlib import Path

import pytest
import trimesh
from app_server import PROMPT, QUICK, extras, meshes, pictures, until
from PIL import Image


pytest.importorskip("gradio", minversion="6.0", reason="the app needs the extra `app`")

import httpx  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from omni123_hf.app.build_app import serve  # noqa: E402
from omni123_hf.app.service import Limits  # noqa: E402
from omni123_hf.pipelines.edit_session import EditSession  # noqa: E402


ENDPOINTS = {"/generate", "/image_to_3d", "/multi_view", "/edit_begin", "/edit", "/edit_go_to", "/edit_undo"}


@pytest.fixture(scope="module")
def server(tiny_pipeline, tmp_path_factory):
    limits = Limits(max_queue=2, max_upload_mb=1)
    with serve(tiny_pipeline, "tiny", limits=limits, outputs=tmp_path_factory.mktemp("outputs"), grace=0.2) as running:
        yield running


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(
        server.url,
        verbose=False,
        httpx_kwargs={"timeout": 60},
        download_files=str(tmp_path_factory.mktemp("downloads")),
    )


@pytest.fixture(scope="module")
def made(client):
    """The first seed for which the tiny weights give a surface: its record and its files."""
    for seed in range(20):
        record, files = client.predict(PROMPT, seed=seed, api_name="/generate", **QUICK)
        if record["samples"][0]["failure"] is None:
            return record["samples"][0], files
    raise AssertionError("no seed gives a surface")


def suffixes(files) -> list[str]:
    return [Path(file).suffix for file in files]


def test_endpoints_are_those_that_are_documented(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == ENDPOINTS
    text = (Path(__file__).parents[2] / "docs" / "app.md").read_text(encoding="utf-8")
    for name in ENDPOINTS:
        assert f"`{name}`" in text
        for parameter in named[name]["parameters"]:
            assert f"`{parameter['parameter_name']}`" in text, (name, parameter["parameter_name"])


def test_a_prompt_gives_a_picture_a_mesh_and_its_provenance(server, client, made):
    record, files = made
    assert suffixes(files) == [".png", ".glb", ".json"] and record["files"] == [Path(file).name for file in files]
    mesh = trimesh.load(files[1], force="mesh")
    assert len(mesh.faces) == record["mesh"]["faces"] and mesh.is_watertight
    facts = extras(files[1])
    assert facts["prompt"] == PROMPT and facts["seed"] == record["seed"]
    assert facts["model"] == {"name": "tiny", "revision": server.service.models.revision}
    assert facts["licences"]["checkpoint"] == "unknown" and facts["licences"] == record["licences"]
    assert record["settings"]["guidance_scale"] == server.service.models.base.guidance(None, None)[0]
    kept = [path.name for folder in server.service.outputs.iterdir() for path in folder.iterdir()]
    assert set(record["files"]) <= set(kept) and not [name for name in kept if name.startswith(".")]


def test_progress_comes_before_the_result_and_several_samples_are_ranked(client):
    job = client.submit(PROMPT, num_samples=3, api_name="/generate", **QUICK)
    record, files = job.result()
    assert all(answer["status"] == "working" for answer, _ in job.outputs()[:-1])
    scores = [sample["score"]["score"] for sample in record["samples"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert suffixes(files).count(".json") == 3 and len({Path(file).name for file in files}) == len(files)


def test_pictures_and_meshes_of_every_kind(client, tmp_path):
    images, shapes = pictures(tmp_path), meshes(tmp_path)
    for name, path in images.items():
        if name.startswith("good"):
            record, files = client.predict(handle_file(path), api_name="/image_to_3d", **QUICK)
            assert record["samples"][0]["image"] == path.name and ".json" in suffixes(files)
    for name, path in shapes.items():
        if name.startswith("good"):
            record, files = client.predict(mesh=handle_file(path), views=["top"], api_name="/multi_view", **QUICK)
            assert suffixes(files) == [".png", ".json"] and Image.open(files[0]).size == (16, 16)
    front, left = handle_file(images["good_alpha"]), handle_file(images["good_gray"])
    record, _ = client.predict(images=[front, left], views=["front", "left"], api_name="/multi_view", **QUICK)
    assert record["samples"][0]["task"] == "images-to-3d"
    record, files = client.predict("a vase", views=["front"], extra_views=["back"], api_name="/multi_view", **QUICK)
    assert suffixes(files)[:2] == [".png", ".png"] and record["samples"][0]["views"] == ["front"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("bad_huge", "pixels"),
        ("bad_corrupt", "cannot be used"),
        ("bad_text", "cannot be used"),
        ("bad_empty", "cannot be used"),
        ("bad_transparent", "transparent"),
    ],
)
def test_a_bad_picture_is_one_line(client, tmp_path, name, message):
    with pytest.raises(AppError, match=message) as error:
        client.predict(handle_file(pictures(tmp_path)[name]), api_name="/image_to_3d", **QUICK)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["bad_empty", "bad_nan", "bad_count", "bad_text"])
def test_a_bad_mesh_is_one_line(client, tmp_path, name):
    with pytest.raises(AppError, match="cannot be used") as error:
        client.predict(handle_file(meshes(tmp_path)[name]), resolution=16, api_name="/edit_begin")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("/generate", {"prompt": "  "}, "prompt is empty"),
        ("/generate", {"prompt": "vase " * 500}, "characters"),
        ("/generate", {"prompt": "vase " * 100}, "tokens"),
        ("/generate", {"prompt": ["vase"]}, "must be a text"),
        ("/generate", {"prompt": PROMPT, "seed": -1}, "seed"),
        ("/generate", {"prompt": PROMPT, "seed": "one"}, "seed must be a number"),
        ("/generate", {"prompt": PROMPT, "temperature": -1.0}, "temperature"),
        ("/generate", {"prompt": PROMPT, "resolution": 100000}, "resolution"),
        ("/generate", {"prompt": PROMPT, "num_samples": 9}, "number of samples"),
        ("/generate", {"prompt": PROMPT, "num_samples": 2}, "at temperature 0"),
        ("/multi_view", {"prompt": PROMPT, "views": ["front", "below"]}, "no view 'below'"),
        ("/multi_view", {"prompt": PROMPT, "views": ["front"], "extra_views": ["front"]}, "each once"),
        ("/multi_view", {}, "prompt is empty"),
        ("/edit", {"instruction": "add armrests"}, "no shape to edit"),
        ("/edit_undo", {}, "no shape to edit"),
    ],
)
def test_bad_values_are_one_line(server, name, arguments, message):
    # A client of its own: no shape was made by it.
    with pytest.raises(AppError, match=message):
        Client(server.url, verbose=False, httpx_kwargs={"timeout": 60}).predict(api_name=name, **arguments)


def test_files_of_the_server_cannot_be_read(server, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    file = {"path": str(tmp_path / "secret.png"), "meta": {"_type": "gradio.FileData"}}
    answer = call(server.url, "image_to_3d", [file, None, 0, None, 1.0, 16, 1])
    assert "event: error" in answer and "secret" not in answer.replace("secret.png", "")
    for path in (tmp_path / "secret.png", "/etc/passwd", server.service.sessions.root):
        assert httpx.get(f"{server.url}gradio_api/file={path}").status_code in (403, 404)


def test_a_file_above_the_limit_is_refused(server, client, tmp_path):
    (tmp_path / "large.stl").write_bytes(bytes(2 * 2**20))
    with pytest.raises(Exception, match="413|[Ss]ize"):
        client.predict(handle_file(tmp_path / "large.stl"), api_name="/edit_begin")
    assert not [path for path in server.service.sessions.uploads.rglob("*") if path.name == "large.stl"]


def test_edits_make_a_tree_that_can_be_gone_back_in(server, client, made, tmp_path):
    client.predict(PROMPT, seed=made[0]["seed"], api_name="/generate", **QUICK)
    record, files = client.predict(None, resolution=16, api_name="/edit_begin")
    assert record["current"] == 0 and suffixes(files) == [".glb", ".zip"]
    assert extras(files[0])["source"]["prompt"] == PROMPT
    for text, node in (("make it taller", None), ("add a handle", None), ("make it red", 1)):
        record, files = client.predict(text, node=node, seed=3, api_name="/edit", **QUICK)
    assert [entry["line"] for entry in record["history"]] == [
        entry if not lost else f"{entry}  (no surface)"
        for entry, lost in zip(
            ["0  start", "└─ 1  make it taller", "   ├─ 2  add a handle", "   └─ 3  make it red"],
            ["no surface" in entry["line"] for entry in record["history"]],
            strict=True,
        )
    ]
    assert record["node"]["parent"] == 1 and record["node"]["locality"]["changed_volume_share"] >= 0
    record, _ = client.predict(api_name="/edit_undo")
    assert record["current"] == 1
    record, files = client.predict(2, api_name="/edit_go_to")
    assert record["current"] == 2 and record["node"]["instruction"] == "add a handle"
    if record["node"]["failure"] is None:
        assert extras(files[0])["edit_path"] == ["make it taller", "add a handle"]
    with zipfile.ZipFile(files[-1]) as archive:
        archive.extractall(tmp_path)
    again = EditSession.load(tmp_path / "edit_session", server.service.models.get("Omni123EditPipeline"))
    assert again.current == 2 and len(again.nodes) == 4
    with pytest.raises(AppError, match="no node 9"):
        client.predict(9, api_name="/edit_go_to")


def test_cancelling_stops_the_work(server, client):
    jobs = busy(server)
    job = client.submit(PROMPT, resolution=256, api_name="/generate")
    # The client can cancel once it knows the name of its event.
    until(lambda: job.outputs() and jobs())
    running = jobs()[0]
    job.cancel()
    until(lambda: running.cancelled and not jobs())
    assert client.predict(PROMPT, api_name="/generate", **QUICK)[0]["status"] == "done"


def test_a_client_that_goes_away_stops_its_work(server):
    jobs = busy(server)
    data = [PROMPT, 0, None, 0.0, 256, 1, False]
    event = httpx.post(f"{server.url}gradio_api/call/generate", json={"data": data}).json()["event_id"]
    with httpx.stream("GET", f"{server.url}gradio_api/call/generate/{event}", timeout=60) as stream:
        next(stream.iter_lines())
        until(jobs)
        running = jobs()[0]
    until(lambda: running.cancelled and not jobs())


def test_a_full_queue_refuses_and_the_others_are_served(server):
    clients = [Client(server.url, verbose=False, httpx_kwargs={"timeout": 60}) for _ in range(5)]
    submitted = [each.submit(PROMPT, resolution=96, api_name="/generate") for each in clients]
    outcomes = []

    def collect(job):
        try:
            outcomes.append(job.result()[0]["status"])
        except Exception as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=collect, args=(job,)) for job in submitted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("done") >= 2
    assert any(re.search("queue", outcome, re.IGNORECASE) for outcome in outcomes)


def test_files_of_a_page_that_was_closed_go_away(server, tmp_path):
    client = Client(server.url, verbose=False, httpx_kwargs={"timeout": 60}, download_files=str(tmp_path))
    client.predict(PROMPT, api_name="/generate", **QUICK)
    session = server.service.sessions.get(client.session_hash)
    assert list(session.folder.rglob("*.json"))
    # What a browser does while its page is open.
    with httpx.stream("GET", f"{server.url}gradio_api/heartbeat/{client.session_hash}", timeout=60) as stream:
        next(stream.iter_lines())
        assert session.folder.exists()
    until(lambda: not session.folder.exists())


def test_nothing_is_left_when_the_server_stops(tiny_pipeline, tmp_path):
    with serve(tiny_pipeline, "tiny") as running:
        client = Client(running.url, verbose=False, httpx_kwargs={"timeout": 60}, download_files=str(tmp_path))
        client.predict(PROMPT, api_name="/generate", **QUICK)
        root = running.service.sessions.root.parent
        assert list(root.rglob("*.json"))
        job = client.submit(PROMPT, resolution=256, api_name="/generate")
        until(busy(running))
    until(lambda: not root.exists(), 10)
    assert job is not None


def test_the_documented_example_runs(server, made, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "app.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert "http://127.0.0.1:7860" in example
    example = example.replace("http://127.0.0.1:7860", server.url).replace("seed=7", f"seed={made[0]['seed']}")
    # Tiny random weights: their surfaces come at a temperature above 0, and on a coarse grid soonest.
    example = example.replace("a round wooden table with three legs", PROMPT).replace(
        "resolution=64", "resolution=16, temperature=1.0"
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/app.md", "exec"), {})
    assert trimesh.load(tmp_path / "table.glb", force="mesh").is_watertight
    assert "0  start" in capsys.readouterr().out


def call(url: str, name: str, data: list) -> str:
    """The answer of an endpoint, over plain HTTP."""
    event = httpx.post(f"{url}gradio_api/call/{name}", json={"data": data}).json()["event_id"]
    return httpx.get(f"{url}gradio_api/call/{name}/{event}", timeout=60).text


def busy(server):
    """A function that gives the jobs that the server works on."""
    sessions = server.service.sessions
    return lambda: [job for session in list(sessions._open.values()) for job in list(session.jobs)]
