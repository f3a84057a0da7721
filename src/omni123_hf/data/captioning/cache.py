"""Answers on disk, one JSON file each, named by all that decides them: a rerun costs nothing, a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from omni123_hf.errors import Omni123Error, RejectedError


class JsonCache:
    """`<folder>/<first two digits>/<key>.json`; a file appears whole, whoever else writes the same one.

    Rejections are kept as results are: a model that failed three times is not asked again.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def get_or_make(self, inputs: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stored value for `inputs` (plain JSON), or `make()`, stored.

        A `RejectedError` of `make` is stored and raised now and every later time; any other error is not stored.
        A file that is no JSON (a damaged disk) raises `Omni123Error`.
        """
        path = self.path(inputs)
        if path.is_file():
            try:
                entry = json.loads(path.read_text(encoding="utf-8"))
                rejected, value = entry["rejected"], entry["value"]
            except (ValueError, KeyError, TypeError) as error:
                raise Omni123Error(f"the cached answer {path} is damaged; remove it to make it again") from error
            if rejected:
                raise RejectedError(rejected["reason"], rejected["detail"])
            return value
        try:
            value = make()
        except RejectedError as error:
            self._write(path, inputs, rejected={"reason": error.reason, "detail": str(error)})
            raise
        self._write(path, inputs, value=value)
        return value

    def path(self, inputs: Mapping[str, Any]) -> Path:
        """File of the given inputs."""
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]
        return self.folder / key[:2] / f"{key}.json"

    def _write(self, path: Path, inputs: Mapping[str, Any], value: Any = None, rejected: Any = None) -> None:
        write_json_atomic(path, {"inputs": dict(inputs), "value": value, "rejected": rejected})


def write_json_atomic(path: Path, content: Any) -> None:
    """Write JSON so that other threads, other processes and a stopped run see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def views_hash(views: Mapping[str, Image.Image]) -> str:
    """Content of renders: names, sizes and pixels."""
    digest = hashlib.sha256()
    for name, image in views.items():
        digest.update(f"{name}:{image.mode}:{image.size}:".encode() + image.tobytes())
    return digest.hexdigest()[:32]
