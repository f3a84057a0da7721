"""`omni123 app`: it needs Gradio 6, says so in one line, and ends cleanly on a signal."""

import os
import signal
import tempfile
import threading
from importlib.metadata import PackageNotFoundError

import pytest

from omni123_hf.cli import app as command
from omni123_hf.cli.main import main


def run(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


@pytest.mark.parametrize("found", [None, "3.18.0"])
def test_without_gradio_6_one_line_names_the_extra(monkeypatch, capsys, found):
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(command, "version", version)
    assert run("app") == 2
    error = capsys.readouterr().err
    assert 'pip install "omni123-hf[app]"' in error and len(error.splitlines()) == 1


def test_it_serves_until_a_signal_and_leaves_nothing(monkeypatch, tiny_pipeline_folder, tmp_path):
    pytest.importorskip("gradio", minversion="6.0", reason="the app needs the extra `app`")
    import httpx

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    seen: list[int] = []
    printed: list[str] = []
    monkeypatch.setattr(command.typer, "echo", printed.append)

    def use_and_stop() -> None:
        for _ in range(600):
            address = printed[0].split()[0] if printed else ""
            if address:
                break
            threading.Event().wait(0.1)
        seen.append(httpx.get(address).status_code)
        seen.append(len(list(tmp_path.glob("omni123-app-*"))))
        os.kill(os.getpid(), signal.SIGTERM)

    helper = threading.Thread(target=use_and_stop)
    helper.start()
    try:
        assert run("app", "--model", tiny_pipeline_folder, "--outputs", tmp_path / "kept") == 0
    finally:
        helper.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [200, 1] and not list(tmp_path.glob("omni123-app-*"))
    assert (tmp_path / "kept").is_dir()
