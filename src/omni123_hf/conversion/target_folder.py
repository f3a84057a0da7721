"""The folder that a conversion writes: refused before the work where it could cost somebody's files, swapped in whole at the end."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines.registry import INDEX_FILE


def check_target(out: Path, overwrite: bool) -> Path:
    """The real path of `out`, which may become a checkpoint.

    Raises `Omni123Error` when it is taken (by a file, by a checkpoint unless `overwrite`, by anything else always), when it
    cannot be swapped (the folder one is in or one above it, a mount point), and when a link in it leads nowhere.
    """
    dangling = [part for part in (out, *out.absolute().parents) if part.is_symlink() and not part.exists()]
    if dangling:
        raise Omni123Error(
            f"--out {str(out)!r}: {str(dangling[0])!r} is a link that leads nowhere; give another folder"
        )
    target = out.resolve()
    here = Path.cwd()
    if target == here or target in here.parents or os.path.ismount(target):
        raise Omni123Error(
            f"--out {str(out)!r} is the folder you are in, one above it, or a mount point, and cannot be replaced; give a "
            "new folder"
        )
    if target.exists():
        is_checkpoint = (target / INDEX_FILE).is_file()
        if not target.is_dir() or (any(target.iterdir()) and not is_checkpoint):
            raise Omni123Error(f"--out {str(out)!r} exists and is no checkpoint; give a new folder")
        if is_checkpoint and not overwrite:
            raise Omni123Error(f"--out {str(out)!r} exists; add --overwrite to replace it, or give a new folder")
    return target


def check_sources_outside(target: Path, sources: Mapping[str, str | Path | None]) -> None:
    """Raises `Omni123Error` when replacing `target` would delete a source: a file, a folder, or a link to one.

    `sources` are values by option; those that name nothing on this machine, such as Hub ids, are passed over.
    """
    # Not Path.expanduser, which raises for a home folder that does not exist.
    paths = {option: Path(os.path.expanduser(source)) for option, source in sources.items() if source is not None}
    for option, source in paths.items():
        if not source.exists():
            continue
        for place in (source.resolve(), source.parent.resolve() / source.name):
            if target == place or target in place.parents:
                raise Omni123Error(
                    f"--out {str(target)!r} holds a source file, which replacing it would delete ({option} {str(source)!r}); "
                    "give another folder"
                )


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes `target`, a path that `check_target` gave, when the block ends well.

    Otherwise nothing is left of it, and what was at `target` stays or comes back.
    """
    nearest = target.parent
    while not nearest.exists():
        nearest = nearest.parent
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".omni123-", dir=nearest))
    except OSError as error:
        raise Omni123Error(f"cannot write to --out {str(target)!r}: {error.strerror}; give another folder") from error
    built, replaced = temporary / "checkpoint", temporary / "replaced"
    try:
        yield built
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if target.exists():
                target.rename(replaced)
            built.rename(target)
        except BaseException:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(built, ignore_errors=True)
        # Fails, as it should, where `replaced` could not be put back: it is not ours to delete.
        with suppress(OSError):
            temporary.rmdir()
