"""Checkpoint folders that are either complete or not there, whatever kills the process or fills the disk.

A checkpoint is written into `writing-checkpoint-N`, forced to the disk, listed with the size of every file in
`complete.json`, and renamed to `checkpoint-N`. Only folders that agree with their list are resumed from.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import Omni123Error


COMPLETE_FILE = "complete.json"
STAGING_PREFIX = "writing-checkpoint-"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def staging_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"{STAGING_PREFIX}{step}"


def checkpoint_step(folder: Path) -> int:
    """Step of a checkpoint folder, -1 for another name."""
    found = CHECKPOINT_NAME.fullmatch(folder.name)
    return int(found.group(1)) if found else -1


def is_write_error(error: BaseException) -> bool:
    """Whether an error says that a file could not be written. `torch.save` raises a bare `RuntimeError` for that."""
    if isinstance(error, OSError | SafetensorError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("PytorchStreamWriter", "inline_container", "unexpected pos", "iostream error")
    )


def reason(error: BaseException, folder: Path) -> str:
    """A write error in a few words. What torch and safetensors say may hide that the disk is full."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return text
    return f"{text[:200]}; {free / 2**20:.0f} MB are free there"


@contextmanager
def writing(folder: Path, consequence: str) -> Iterator[None]:
    """Turns a failed write below `folder` into an `Omni123Error` of one line, which says what became of the run."""
    try:
        yield
    except Exception as error:
        if not is_write_error(error):
            raise
        raise Omni123Error(f"cannot write {folder} ({reason(error, folder.parent)}): {consequence}") from error


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Forces every file and folder below `folder`, and the folder itself, to the disk."""
    for path in sorted(folder.rglob("*")):
        fsync(path)
    fsync(folder)


def write_atomically(path: Path, text: str) -> None:
    """Text into a file that is never seen half-written."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder by relative path, the list itself left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files if path.name != COMPLETE_FILE}


def commit_checkpoint(staging: Path, target: Path) -> None:
    """Lists and syncs the finished files of `staging`, and makes them the checkpoint `target`."""
    fsync_tree(staging)
    listing = {"step": checkpoint_step(target), "files": file_sizes(staging)}
    (staging / COMPLETE_FILE).write_text(json.dumps(listing, indent=1) + "\n")
    fsync(staging / COMPLETE_FILE)
    fsync(staging)
    # A folder of this name is no complete checkpoint, or the run would have gone on from it.
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
    fsync(target.parent)


def problem_of(folder: Path) -> str | None:
    """Why a folder is no complete checkpoint, None when it is one."""
    try:
        listing = json.loads((folder / COMPLETE_FILE).read_text())
        wanted = dict(listing["files"])
    except FileNotFoundError:
        return f"it has no {COMPLETE_FILE}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {COMPLETE_FILE} cannot be read ({error})"
    found = file_sizes(folder)
    for name, size in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]} bytes instead of {size}"
    return None


def newest_complete_checkpoint(output_dir: Path, report: Callable[[str], None]) -> Path | None:
    """The complete checkpoint with the highest step, None without any; removes broken ones and says so through `report`.

    Raises `Omni123Error` when there are only checkpoints that cannot be judged, because an earlier version of this
    software or plain `Trainer` wrote them: beginning anew beside them would overwrite a run.
    """
    for leftover in sorted(output_dir.glob(f"{STAGING_PREFIX}*")):
        shutil.rmtree(leftover)
        report(f"removed {leftover}, a checkpoint that was being written when the run ended")
    found = sorted(
        (path for path in output_dir.glob("checkpoint-*") if checkpoint_step(path) >= 0), key=checkpoint_step
    )
    complete, foreign = [], []
    for folder in found:
        problem = problem_of(folder)
        if problem is None:
            complete.append(folder)
        elif not (folder / COMPLETE_FILE).exists() and (folder / "trainer_state.json").exists():
            foreign.append(folder)
        else:
            shutil.rmtree(folder)
            report(f"removed {folder}, which is incomplete: {problem}")
    if foreign and not complete:
        raise Omni123Error(
            f"{foreign[-1]} was not written by this version of omni123 (it has no {COMPLETE_FILE}): go on with the version "
            "that wrote it, or move it away to begin anew."
        )
    for folder in foreign:
        report(f"ignored {folder}, which has no {COMPLETE_FILE}")
    return complete[-1] if complete else None


def remove_old_checkpoints(output_dir: Path, keep: int | None, best: str | None) -> None:
    """Removes the oldest checkpoints until `keep` are left (None or 0: all stay); the newest and `best` always stay."""
    found = sorted(
        (path for path in output_dir.glob("checkpoint-*") if checkpoint_step(path) >= 0), key=checkpoint_step
    )
    if not keep or not found:
        return
    protected = {found[-1].name} | ({Path(best).name} if best else set())
    removable = [folder for folder in found if folder.name not in protected]
    for folder in removable[: max(len(found) - max(keep, len(protected)), 0)]:
        # This file first: what is left of a folder that is half removed must not look like another version's checkpoint.
        (folder / "trainer_state.json").unlink(missing_ok=True)
        shutil.rmtree(folder)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder beside `folder` and puts it in place only when it is complete."""
    temporary, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write(temporary)
    fsync_tree(temporary)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
