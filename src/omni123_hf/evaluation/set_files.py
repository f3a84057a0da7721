"""The three files in which a held-out set ships: compressed arrays, records as JSON lines, and what they are.

The last is written last and removed first, so a set of which one part is new and one old never looks complete; it holds the
set's own hash, against which a set is checked when it is read.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from omni123_hf.errors import Omni123Error


class HashedSet(Protocol):
    """A set that can tell a short hash of everything that is measured."""

    def set_hash(self) -> str: ...

    def __len__(self) -> int: ...


S = TypeVar("S", bound=HashedSet)


@dataclass(frozen=True)
class SetFiles:
    """Names of the three files. title: what the set is called in errors. advice: how one gets it."""

    arrays: str
    records: str
    info: str
    title: str
    advice: str

    @property
    def names(self) -> tuple[str, str, str]:
        return self.arrays, self.records, self.info

    def save(
        self,
        folder: Path,
        held: HashedSet,
        arrays: Mapping[str, np.ndarray],
        write_records: Callable[[Path], object],
        info: dict[str, Any],
    ) -> None:
        """Write the set into `folder` (created), each file whole or not at all. Equal sets give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.info).unlink(missing_ok=True)
        temporary = folder / f".{self.arrays}.partial"
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.replace(temporary, folder / self.arrays)
        write_records(folder / self.records)
        facts = info | {"set_hash": held.set_hash(), "count": len(held)}
        temporary = folder / f".{self.info}.partial"
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, folder / self.info)

    def load(self, folder: Path, read: Callable[[dict[str, np.ndarray], Path, dict[str, Any]], S]) -> S:
        """`read(arrays, path of the records, info)`, checked against the hash of `info`.

        Missing or damaged files, and a set that does not match its hash, raise Omni123Error.
        """
        missing = [name for name in self.names if not (folder / name).is_file()]
        if missing:
            raise Omni123Error(f"No {self.title} in {folder} (missing {', '.join(missing)}): {self.advice}")
        try:
            info = json.loads((folder / self.info).read_text(encoding="utf-8"))
            with np.load(folder / self.arrays, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            held = read(arrays, folder / self.records, info)
            recorded = info["set_hash"]
        except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise Omni123Error(
                f"The {self.title} in {folder} cannot be read ({error}): fetch or export it anew."
            ) from error
        if held.set_hash() != recorded:
            raise Omni123Error(
                f"The recorded hash of the {self.title} in {folder} is of another content: export it anew."
            )
        return held
