"""Weight files of other projects: found on disk or on the Hub, opened without reading the weights."""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open

from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines.registry import safetensors_header


FLOAT_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_HUB_FILE = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./-]+))?"
)
# Files of the Hub's cache lie in a folder named after the commit that was resolved.
_CACHED_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})/")


class SourceFile:
    """A safetensors file: `shapes` and `types` by tensor name from its header; tensors are memory-mapped when asked for.

    `source` is a path, or a Hub id `org/name[@revision][:file]`; `default_name` is the file unless one is named. `hub_id`
    and `commit` say where a downloaded file is from. Raises `Omni123Error` for a file that is absent, that is no whole
    safetensors file, or that holds other than float weights.
    """

    def __init__(self, source: str, default_name: str):
        self.source = source
        self.hub_id: str | None = None
        self.commit: str | None = None
        # Not Path.expanduser, which raises for a home folder that does not exist.
        self.path = Path(os.path.expanduser(source))
        if not self.path.is_file():
            self.path = self._download(source, default_name)
        try:
            header = safetensors_header(self.path)
        except Omni123Error as error:
            raise Omni123Error(
                f"{source!r} is no safetensors file, or a truncated one; download it again, or give the .safetensors file"
            ) from error
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(entry["shape"]) for name, entry in header.items()}
        self.types: dict[str, str] = {name: entry["dtype"] for name, entry in header.items()}
        self._reader: Any = safe_open(self.path, framework="pt")

    def _download(self, source: str, default_name: str) -> Path:
        match = _HUB_FILE.fullmatch(source)
        if self.path.is_dir():
            raise Omni123Error(f"{source!r} is a folder; give the file, such as {source.rstrip('/')}/{default_name}")
        if match is None or (match["file"] is None and source.endswith(".safetensors")):
            raise Omni123Error(
                f"no file {source!r}; give a safetensors file, a Hub id 'org/name' or 'org/name@revision', or "
                f"'org/name:{default_name}'"
            )
        self.hub_id, name, revision = match["repository"], match["file"] or default_name, match["revision"]
        for part in (name, revision or "main"):
            if not {"", ".", ".."}.isdisjoint(part.split("/")):
                raise Omni123Error(f"{part!r} leads out of {self.hub_id!r}; give 'org/name@revision:folder/file'")
        try:
            path = Path(hf_hub_download(self.hub_id, name, revision=revision))
        except LocalEntryNotFoundError as error:
            raise Omni123Error(
                f"cannot download {name!r} of {self.hub_id!r}: the Hub cannot be reached; give a file on this machine"
            ) from error
        except RevisionNotFoundError as error:
            raise Omni123Error(
                f"{self.hub_id!r} has no revision {revision!r} on the Hub; give a branch, tag or commit, or leave it out"
            ) from error
        except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError) as error:
            raise Omni123Error(
                f"no file {name!r} in {self.hub_id!r} on the Hub, or no access to it; give 'org/name:file' or a file"
            ) from error
        except (HfHubHTTPError, OSError) as error:
            raise Omni123Error(
                f"cannot download {name!r} of {self.hub_id!r}: {' '.join(str(error).split())}"
            ) from error
        commit = _CACHED_COMMIT.search(path.as_posix())
        self.commit = commit[1] if commit else None
        return path

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name`, as stored."""
        return self._reader.get_tensor(name)

    def check_types(self) -> None:
        """Raises `Omni123Error` unless every tensor is float32, float16 or bfloat16."""
        foreign = Counter(dtype for dtype in self.types.values() if dtype not in FLOAT_TYPES)
        if foreign:
            found = ", ".join(f"{count} {dtype}" for dtype, count in sorted(foreign.items()))
            raise Omni123Error(
                f"{self.source!r} holds tensors of other types than F32, F16 and BF16 ({found}); give weights that are not "
                "quantised"
            )

    def facts(self) -> dict[str, Any]:
        """Name, origin, size and SHA-256 for the lineage; no folder of this machine."""
        with self.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {
            "file": self.path.name,
            "hub_id": self.hub_id,
            "commit": self.commit,
            "sha256": digest,
            "bytes": self.path.stat().st_size,
            "tensors": len(self.shapes),
            "dtypes": sorted(set(self.types.values())),
        }
