"""What the server keeps of each client: one folder, the shapes made last, a tree of edits; all of it goes away.

| when | what goes |
|---|---|
| the client closes its page | its job at once, its files after `grace` seconds, unless it comes back (`Sessions.resume`) |
| nothing is heard of it for `ttl` seconds (clients of the HTTP API do not say good-bye) | the same |
| the server stops | everything |

Not `gr.State`: Gradio keeps that for an hour after a page is closed, and knows nothing of files.
"""

import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omni123_hf.app.jobs import Job
from omni123_hf.app.results import Sample
from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines.edit_session import EditSession


logger = logging.getLogger(__name__)
PAGE = re.compile(r"[0-9a-f]{32}")
TTL = 3600.0
GRACE = 120.0


class Session:
    """samples: what each tab made last. viewed: the mesh in each tab's viewer. shown: the sample that editing begins with.

    previewed: tabs whose viewer shows a preview in place of `viewed`. page: the secret of the page, see `Sessions.resume`.
    unseen: tabs of a page that was loaded again whose viewer is still empty.

    tree: the edits. tree_source: facts of the shape that they begin with. uploads: files that the client sent.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.samples: dict[str, list[Sample]] = {}
        self.viewed: dict[str, Path | None] = {}
        self.previewed: set[str] = set()
        self.unseen: set[str] = set()
        self.page: str | None = None
        self.shown: Sample | None = None
        self.tree: EditSession | None = None
        self.tree_source: dict[str, Any] = {}
        self.uploads: set[Path] = set()
        self.jobs: set[Job] = set()
        self.deadline = 0.0
        self.has_left = False
        self.closed = False

    def need_tree(self) -> EditSession:
        """Raises `Omni123Error` where no edit has begun."""
        if self.tree is None:
            raise Omni123Error(
                "there is no shape to edit yet; upload a mesh, or begin with a shape that was made here"
            )
        return self.tree

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """An empty folder, removed again when the block fails. Its name cannot be guessed: who knows the address of a file may
        fetch it."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


class Sessions:
    """Every client's `Session`, by the hash that Gradio gives it. root: the folder below which all files lie."""

    def __init__(self, root: Path, ttl: float = TTL, grace: float = GRACE):
        self.root, self.uploads = root / "sessions", root / "uploads"
        for folder in (self.root, self.uploads):
            folder.mkdir(parents=True, exist_ok=True)
        self.ttl, self.grace = ttl, grace
        self._open: dict[str, Session] = {}
        self._lock = threading.RLock()
        self._stop = threading.Event()
        threading.Thread(target=self._sweep, name="omni123-sessions", daemon=True).start()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, key: str | None) -> Session:
        """The client's session, made if it is new; it lives for another `ttl` seconds. Raises `Omni123Error` without a key."""
        if not key:
            raise Omni123Error("the request names no session; use a Gradio client, or send a session_hash")
        with self._lock:
            session = self._open.get(key)
            if session is None:
                session = self._open[key] = Session(self.root / secrets.token_hex(16))
            session.has_left = False
            session.deadline = time.monotonic() + self.ttl
            return session

    def resume(self, page: Any, key: str | None) -> Session:
        """The session that a page had before it was loaded again, now under its new hash; else the client's own.

        page: the secret that the browser keeps for one of its tabs (`reload.py`); without a good one nothing is resumed. What the
        page was computing when it was loaded again stops.
        """
        with self._lock:
            session = self.get(key)
            if key is None or not isinstance(page, str) or not PAGE.fullmatch(page):
                return session
            old = next((name for name, other in self._open.items() if other.page == page and name != key), None)
            # A client that has begun something keeps it.
            if old is not None and not (session.jobs or session.samples or session.tree):
                self._close(key)
                session = self._open[key] = self._open.pop(old)
                for job in session.jobs:
                    job.cancel()
                self.get(key)
            session.page = page
            return session

    @contextmanager
    def working(self, key: str | None, job: Job) -> Iterator[Session]:
        """The session while `job` works for it; files of a session that was closed meanwhile go at the end."""
        with self._lock:
            session = self.get(key)
            session.jobs.add(job)
        try:
            yield session
        finally:
            with self._lock:
                session.jobs.discard(job)
                session.deadline = time.monotonic() + (self.grace if session.has_left else self.ttl)
                if session.closed and not session.jobs:
                    self._remove_files(session)

    def upload(self, session: Session, file: Any) -> Path:
        """The path of a file that a client sent. Raises `Omni123Error` for one that is none, or lies elsewhere."""
        path = Path(str(file["path"] if isinstance(file, dict) and "path" in file else file)).resolve()
        allowed = (self.uploads.resolve(), session.folder.resolve())
        if not any(path.is_relative_to(folder) for folder in allowed):
            raise Omni123Error("the file was not uploaded to this server; upload it first")
        if not path.is_file():
            raise Omni123Error("the uploaded file is not there any more; upload it again")
        if path.is_relative_to(allowed[0]):
            session.uploads.add(path)
        return path

    def leave(self, key: str | None) -> None:
        """The client closed its page: its jobs stop, and after `grace` seconds its files go."""
        with self._lock:
            session = self._open.get(key or "")
            if session is not None:
                for job in session.jobs:
                    job.cancel()
                session.has_left = True
                session.deadline = time.monotonic() + self.grace

    def close(self) -> None:
        """Stops every job and removes every file."""
        self._stop.set()
        with self._lock:
            for key in list(self._open):
                self._close(key)
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.uploads, ignore_errors=True)

    def _sweep(self) -> None:
        pause = max(0.05, min(self.ttl, self.grace) / 8)
        while not self._stop.wait(pause):
            with self._lock:
                now = time.monotonic()
                for key in [key for key, session in self._open.items() if session.deadline < now and not session.jobs]:
                    self._close(key)

    def _close(self, key: str) -> None:
        session = self._open.pop(key)
        session.closed = True
        for job in session.jobs:
            job.cancel()
        if not session.jobs:
            self._remove_files(session)

    def _remove_files(self, session: Session) -> None:
        shutil.rmtree(session.folder, ignore_errors=True)
        # Gradio names an upload by its content, so two clients that sent one file share it.
        used = set().union(*(other.uploads for other in self._open.values()))
        for path in session.uploads - used:
            path.unlink(missing_ok=True)
            if path.parent != self.uploads and not any(path.parent.iterdir()):
                path.parent.rmdir()
