"""Files of a client lie in one folder of its own and go away: after it left, after silence, and when the server stops."""

import time

import pytest

from omni123_hf.app.jobs import Job
from omni123_hf.app.sessions import Sessions
from omni123_hf.errors import Omni123Error


def wait_for(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def upload(sessions: Sessions, name: str = "hash/box.stl"):
    path = sessions.uploads / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("solid")
    return path


def test_files_go_some_time_after_the_client_left(tmp_path):
    sessions = Sessions(tmp_path, ttl=60, grace=0.1)
    one, other = sessions.get("one"), sessions.get("other")
    assert sessions.get("one") is one is not other
    path = upload(sessions)
    sessions.upload(one, {"path": str(path)})
    with one.new_folder() as folder:
        (folder / "mesh.glb").write_text("mesh")
    with other.new_folder():
        pass
    sessions.leave("one")
    sessions.leave("never seen")
    assert wait_for(lambda: not one.folder.exists() and not path.exists())
    assert other.folder.exists() and len(sessions) == 1
    sessions.close()
    assert not sessions.root.exists() and not sessions.uploads.exists()


def test_a_client_that_comes_back_in_time_keeps_its_files(tmp_path):
    sessions = Sessions(tmp_path, ttl=60, grace=0.3)
    session = sessions.get("one")
    with session.new_folder() as folder:
        pass
    sessions.leave("one")
    assert sessions.get("one") is session
    time.sleep(0.6)
    assert folder.exists()
    sessions.close()


def test_silence_ends_a_session_but_never_under_its_job(tmp_path):
    sessions = Sessions(tmp_path, ttl=0.2, grace=0.2)
    job = Job()
    with sessions.working("one", job) as session:
        with session.new_folder() as folder:
            pass
        time.sleep(0.6)
        assert folder.exists()
    assert wait_for(lambda: not folder.exists()) and len(sessions) == 0
    sessions.close()


def test_files_of_a_client_that_left_during_its_job_go_after_the_job(tmp_path):
    sessions = Sessions(tmp_path, ttl=60, grace=0.1)
    with sessions.working("one", Job()) as session:
        with session.new_folder() as folder:
            pass
        sessions.leave("one")
        time.sleep(0.3)
        assert folder.exists()
    assert wait_for(lambda: not folder.exists())
    sessions.close()


def test_leaving_and_closing_cancel_jobs_and_late_files_go_too(tmp_path):
    sessions = Sessions(tmp_path, ttl=60, grace=60)
    left, closed = Job(), Job()
    with sessions.working("left", left), sessions.working("closed", closed) as session:
        sessions.leave("left")
        assert left.cancelled and not closed.cancelled
        sessions.close()
        assert closed.cancelled
        with session.new_folder() as folder:
            (folder / "late.glb").write_text("written after the server stopped")
    assert not folder.exists()


def test_a_folder_of_work_that_failed_goes_at_once(tmp_path):
    sessions = Sessions(tmp_path)
    with pytest.raises(KeyError), sessions.get("one").new_folder() as folder:
        (folder / "half.glb").write_text("half")
        raise KeyError
    assert not folder.exists()
    sessions.close()


def test_a_page_that_is_loaded_again_keeps_its_session(tmp_path):
    sessions = Sessions(tmp_path, ttl=60, grace=0.2)
    page, job = "0f" * 16, Job()
    session = sessions.resume(page, "first")
    session.samples["generate"] = []
    session.tree = object()
    with sessions.working("first", job):
        # The new page may ask before the server hears that the old one is gone, and that then means nothing.
        assert sessions.resume(page, "second") is session and job.cancelled
        sessions.leave("first")
    time.sleep(0.5)
    assert sessions.get("second") is session and len(sessions) == 1
    sessions.leave("second")
    assert sessions.resume(page, "third") is session
    time.sleep(0.5)
    assert sessions.get("third") is session
    sessions.close()


def test_another_tab_and_a_wrong_secret_have_a_session_of_their_own(tmp_path):
    sessions = Sessions(tmp_path, ttl=60, grace=60)
    session = sessions.resume("0f" * 16, "first")
    session.tree = object()
    for key, page in (("other", "1e" * 16), ("none", None), ("short", "0f"), ("list", ["0f" * 16])):
        assert sessions.resume(page, key).tree is None
    # A client that has begun something keeps it.
    busy = sessions.get("busy")
    busy.tree = object()
    assert sessions.resume("0f" * 16, "busy") is busy and sessions.get("first") is session
    with pytest.raises(Omni123Error, match="session_hash"):
        sessions.resume("0f" * 16, None)
    sessions.close()


def test_only_uploads_and_the_clients_own_files_are_read(tmp_path):
    sessions = Sessions(tmp_path / "root")
    (tmp_path / "secret").write_text("x")
    one, other = sessions.get("one"), sessions.get("other")
    with other.new_folder() as folder:
        (folder / "mesh.glb").write_text("theirs")
    (sessions.uploads / "link").symlink_to(tmp_path / "secret")
    for path in (
        tmp_path / "secret",
        folder / "mesh.glb",
        sessions.uploads / ".." / ".." / "secret",
        sessions.uploads / "link",
    ):
        with pytest.raises(Omni123Error, match="not uploaded"):
            sessions.upload(one, {"path": str(path)})
    with pytest.raises(Omni123Error, match="upload it again"):
        sessions.upload(one, str(sessions.uploads / "gone.glb"))
    with pytest.raises(Omni123Error, match="session_hash"):
        sessions.get(None)
    sessions.close()


def test_an_upload_that_two_clients_share_stays_for_the_second(tmp_path):
    sessions = Sessions(tmp_path, ttl=60, grace=0.05)
    path = upload(sessions)
    one, _ = sessions.get("one"), sessions.upload(sessions.get("other"), path)
    sessions.upload(one, path)
    sessions.leave("one")
    assert wait_for(lambda: len(sessions) == 1) and path.exists()
    sessions.leave("other")
    assert wait_for(lambda: not path.exists())
    sessions.close()
