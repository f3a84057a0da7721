"""Previews of a running job: what the page gets, and that no file of them stays."""

import pytest
from app_server import PROMPT

from omni123_hf.app.jobs import Job, JobCancelled
from omni123_hf.app.previews import KEPT, with_previews
from omni123_hf.app.sessions import Sessions
from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines.preview_callback import PreviewCallback


@pytest.fixture
def session(tmp_path):
    sessions = Sessions(tmp_path)
    yield sessions.get("one")
    sessions.close()


@pytest.fixture
def ball(monkeypatch):
    """Few codes of random weights have no surface: let the field be a ball."""
    monkeypatch.setattr(
        "omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query",
        lambda self, latents, queries: 0.7 - queries.norm(dim=-1),
    )


def test_previews_are_files_while_the_job_works_and_gone_after(tiny_pipeline, session, ball):
    job, seen = Job(), []

    def work(job):
        with with_previews(session, "generate", job, tiny_pipeline, 1) as callbacks:
            step = callbacks["callback_on_step_end"]

            def spy(pipeline, number, total, facts):
                step(pipeline, number, total, facts)
                found = sorted(path.name for path in session.folder.rglob("*.glb"))
                seen.append((job.progress.preview, found))

            tiny_pipeline(PROMPT, output_type="tokens", num_samples=2, temperature=1.0, callback_on_step_end=spy)
            assert {"generate"} == session.previewed

    list(job.run(work, interval=0.01))
    paths = [path.name for path, _ in seen if path is not None]
    # 16 codes of the image, then 8 of the shape: the last is left to the pipeline, and the bar goes on with the one before.
    assert paths == [f"preview_{step}.glb" for step in (*range(17, 24), 23)]
    assert max(len(found) for _, found in seen) == KEPT and not list(session.folder.rglob("*.glb"))
    assert job.preview is None


def test_cancelling_between_previews_leaves_nothing(tiny_pipeline, session, ball):
    job = Job()

    def work(job):
        with with_previews(session, "generate", job, tiny_pipeline, 2) as callbacks:
            tiny_pipeline(PROMPT, output_type="tokens", callback_on_step_end=callbacks["callback_on_step_end"])

    with pytest.raises(JobCancelled):
        for progress in job.run(work, interval=0.0):
            if progress.preview is not None:
                job.cancel()
    assert not list(session.folder.rglob("*"))


def test_no_previews_are_no_work(tiny_pipeline, session):
    job = Job()
    with with_previews(session, "generate", job, tiny_pipeline, 0) as callbacks:
        assert callbacks == job.callbacks
    assert not session.folder.exists() and not session.previewed


def test_only_the_first_rows_are_decoded(tiny_pipeline, ball):
    rows = []
    preview = PreviewCallback(
        tiny_pipeline, lambda mesh, step, total, row: rows.append(row), every=4, resolution=16, rows=1
    )
    tiny_pipeline([PROMPT, PROMPT], output_type="tokens", callback_on_step_end=preview)
    assert rows == [0]
    with pytest.raises(Omni123Error, match="first 1, 2"):
        PreviewCallback(tiny_pipeline, lambda *_: None, rows=0)
