"""Broken copies of good files, by the hundred: `load_mesh` gives a sound mesh or a `RejectedError`, and nothing else.

The cases run in a sandbox worker under limits of time and memory, with an audit hook that notes every file that is
opened, made, moved or removed outside the case's folder. Each case depends on its number only.
"""

from __future__ import annotations

import io
import os
import sys
import time
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mesh_samples import colored_box, packed, samples, write_files

import omni123_hf.data.sources  # noqa: F401  (registers LDraw and Sweet Home 3D)
from omni123_hf.data.sandbox import Sandbox, SandboxLimits
from omni123_hf.errors import RejectedError
from omni123_hf.geometry.loading import LoadLimits, load_mesh


LIMITS = LoadLimits(
    max_file_bytes=2**22, max_total_bytes=2**26, max_vertices=20_000, max_faces=20_000, max_texture_pixels=2**20
)
SECONDS_A_CASE = 5.0
BATCH = 20

# What stands in for a number of a text format, and for four bytes of a binary one.
NUMBERS = [
    b"1e30",
    b"-1e308",
    b"nan",
    b"inf",
    b"1e-40",
    b"1000000000",
    b"-1",
    b"99999999999999999999",
    b"",
    b"../../../etc/passwd",
]
WORDS = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\0\0\x80\x7f",
    b"\0\0\xc0\x7f",
    b"\x01\0\0\0",
]

_WATCHED = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "socket.connect",
    "subprocess.Popen",
)
_outside: list[str] = []
_folder: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    if event not in _WATCHED or not _folder:
        return
    name = arguments[0]
    if event == "open" and isinstance(name, int):
        return
    path = os.path.realpath(os.fsdecode(name)) if isinstance(name, (str, bytes, os.PathLike)) else repr(name)
    writes = event != "open" or (
        isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )
    # Modules imported late are read from the installation.
    installed = path.endswith((".py", ".pyc", ".so")) and not writes
    if writes or not (path.startswith(_folder[0]) or installed):
        _outside.append(f"{event} {path}")


@cache
def _prepare_worker() -> None:
    sys.addaudithook(_watch)


def mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """One to three kinds of damage, and their names."""
    done = []
    for _ in range(int(rng.integers(1, 4))):
        kind = ("cut", "flip", "swap", "word", "number", "repeat", "delete", "noise")[rng.integers(8)]
        done.append(kind)
        if not data:
            break
        place = int(rng.integers(len(data)))
        if kind == "cut":
            data = data[:place]
        elif kind == "flip":
            data = data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]
        elif kind == "swap":
            other = int(rng.integers(len(data)))
            changed = bytearray(data)
            changed[place], changed[other] = changed[other], changed[place]
            data = bytes(changed)
        elif kind == "word":
            data = data[:place] + WORDS[rng.integers(len(WORDS))] + data[place + 4 :]
        elif kind == "number":
            pieces = data.split(b" ")
            pieces[rng.integers(len(pieces))] = NUMBERS[rng.integers(len(NUMBERS))]
            data = b" ".join(pieces)
        elif kind == "repeat":
            end = min(len(data), place + int(rng.integers(1, 60)))
            data = data[:end] + data[place:end] * int(rng.integers(1, 50)) + data[end:]
        elif kind == "delete":
            data = data[:place] + data[place + int(rng.integers(1, 60)) :]
        else:
            data = data[:place] + rng.bytes(int(rng.integers(1, 16))) + data[place:]
    return data, "+".join(done)


VALUES = [
    None,
    -1,
    0,
    2**31,
    10**12,
    1e308,
    1e-40,
    0.5,
    "",
    "../x.png",
    "data:,",
    [],
    [0],
    [[]],
    {},
    {"index": 0},
    True,
]


def mutate_tree(tree: object, rng: np.random.Generator) -> str:
    """Put a hostile value in the place of one value of a JSON tree, or take it away; the path of it."""
    path = ""
    while True:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        key = keys[rng.integers(len(keys))]
        path += f"/{key}"
        if isinstance(tree[key], (dict, list)) and tree[key] and rng.random() < 0.9:
            tree = tree[key]
            continue
        if rng.random() < 0.15:
            del tree[key]
        else:
            tree[key] = VALUES[rng.integers(len(VALUES))]
        return path


def damage(kind: str, rng: np.random.Generator) -> tuple[dict[str, bytes], str]:
    """Files of one sample with something broken in them, and what it is."""
    files = dict(samples_of(kind))
    model = next(iter(files))
    if kind in ("glb", "gltf embedded") and rng.random() < 0.7:
        # Damage to the bytes rarely leaves JSON that can be read; this reaches what comes after.
        box = colored_box()
        paths = [mutate_tree(box.tree, rng) for _ in range(int(rng.integers(1, 3)))]
        files[model] = box.glb() if kind == "glb" else box.gltf()
        return files, " ".join(paths)
    if kind in ("zip", "sh3f") and rng.random() < 0.7:
        with zipfile.ZipFile(io.BytesIO(files[model])) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = list(members)[rng.integers(len(members))]
        members[name], done = mutate(members[name], rng)
        files[model] = packed(members)
        return files, f"{done} in member {name}"
    # Mostly the model itself, sometimes a file that it names.
    name = list(files)[0 if rng.random() < 0.75 else rng.integers(len(files))]
    files[name], done = mutate(files[name], rng)
    return files, f"{done} in {name}"


def run_batch(job: tuple[str, int, str]) -> dict[str, int]:
    """Cases `first` to `first + BATCH` of one kind of file; how often each outcome came. AssertionError for a wrong one."""
    kind, first, folder = job
    _prepare_worker()
    outcomes: dict[str, int] = {}
    for number in range(first, first + BATCH):
        rng = np.random.default_rng([number, *kind.encode()])
        files, done = damage(kind, rng)
        path = write_files(Path(folder) / kind, files)
        case = f"{kind} case {number} ({done})"
        _outside.clear()
        _folder.append(os.path.realpath(path.parent))
        started = time.perf_counter()
        try:
            mesh = load_mesh(path, LIMITS)
            assert np.isfinite(mesh.vertices).all() and 0 < len(mesh.faces) <= LIMITS.max_faces, case
            assert np.abs(mesh.vertices).max() <= 1e9 and mesh.faces.max() < len(mesh.vertices), case
            assert len(mesh.visual.face_colors) == len(mesh.faces), case
            reason = "loaded"
        except RejectedError as error:
            assert error.reason.replace("_", "").isalpha() and str(error), case
            reason = error.reason
        except Exception as error:
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
        finally:
            _folder.clear()
        assert time.perf_counter() - started < SECONDS_A_CASE, f"{case}: too slow"
        assert not _outside, f"{case}: {_outside}"
        outcomes[reason] = outcomes.get(reason, 0) + 1
    return outcomes


@cache
def samples_of(kind: str) -> dict[str, bytes]:
    return samples()[kind]


def run(folder: Path, cases: int) -> dict[str, dict[str, int]]:
    """Outcomes of `cases` cases of each kind of file."""
    # The whole batch shares one allowance: 1 GiB, many times what any of these small files may take.
    limits = SandboxLimits(seconds=120.0, memory_bytes=2**30, output_bytes=2**26)
    jobs = [(kind, first, str(folder)) for kind in samples() for first in range(0, cases, BATCH)]
    totals: dict[str, dict[str, int]] = {kind: {} for kind in samples()}
    with Sandbox(workers=1, limits=limits) as sandbox:
        for (kind, first, _), outcome in sandbox.map_unordered(run_batch, jobs):
            if isinstance(outcome, RejectedError):
                pytest.fail(f"{kind} from case {first}: {outcome.reason}: {outcome}")
            for reason, count in outcome.items():
                totals[kind][reason] = totals[kind].get(reason, 0) + count
    return totals


def check(totals: dict[str, dict[str, int]], cases: int) -> None:
    for kind, outcomes in totals.items():
        assert sum(outcomes.values()) == cases
        assert len(outcomes) >= 2, (
            f"{kind}: every case ended alike, so the damage does not reach the reader: {outcomes}"
        )


def test_broken_files(tmp_path):
    check(run(tmp_path, 40), 40)


@pytest.mark.slow
def test_many_broken_files(tmp_path):
    totals = run(tmp_path, 1000)
    check(totals, 1000)
    print({kind: dict(sorted(outcomes.items(), key=lambda pair: -pair[1])) for kind, outcomes in totals.items()})


@pytest.mark.parametrize("kind", samples())
def test_cut_anywhere(tmp_path, kind):
    files = samples_of(kind)
    name = next(iter(files))
    whole = files[name]
    refused = 0
    # A step that does not divide structures of 4, 12 or 50 bytes lands at every kind of place.
    for length in range(0, len(whole), max(1, len(whole) // 37)):
        path = write_files(tmp_path, {**files, name: whole[:length]})
        try:
            assert np.isfinite(load_mesh(path, LIMITS).vertices).all()
        except RejectedError:
            refused += 1
    assert refused > 2


def test_the_watch_sees(tmp_path):
    with Sandbox(workers=1, limits=SandboxLimits(seconds=60)) as sandbox:
        [(_, seen)] = sandbox.map_unordered(_peek, [str(tmp_path)])
    assert len(seen) == 3 and seen[0].startswith("open") and seen[2].startswith("os.mkdir"), seen


def _peek(folder: str) -> list[str]:
    _prepare_worker()
    inside = Path(folder) / "inside"
    inside.mkdir()
    (inside / "a").write_bytes(b"1")
    _folder.append(os.path.realpath(inside))
    (inside / "a").read_bytes()
    open("/etc/passwd").close()
    (inside / "b").write_bytes(b"2")
    (Path(folder) / "outside").mkdir()
    _folder.clear()
    return list(_outside)
