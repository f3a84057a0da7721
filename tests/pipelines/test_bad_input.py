"""Input of strangers, through pipelines and the command line: one clear line, or a result, and never gigabytes."""

import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from omni123_hf.cli.main import main
from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines import Omni123EditPipeline, Omni123ImageTo3DPipeline, Omni123ShapeToImagePipeline


HUGE = 20_000
MEMORY_MIB = 300


def png(path: Path, rows: int, content: bytes) -> Path:
    """A PNG of 1 bit a pixel that says it is HUGE wide and `rows` high, with `content` as its compressed rows."""
    header = struct.pack(">IIBBBBB", HUGE, rows, 1, 0, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", content), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def claimed_huge(folder: Path) -> Path:
    return png(folder / "claims.png", HUGE, zlib.compress(b"\0" * 100))


def really_huge(folder: Path) -> Path:
    """All white, and whole: 50 MB of rows in a file of 50 kB."""
    packer, row = zlib.compressobj(1), b"\0" + b"\xff" * (HUGE // 8)
    content = b"".join(packer.compress(row * 500) for _ in range(HUGE // 500)) + packer.flush()
    return png(folder / "white.png", HUGE, content)


def corrupt(folder: Path) -> Path:
    path = folder / "corrupt.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def stl_of(faces: int) -> Callable[[Path], Path]:
    """A binary STL that promises so many faces and holds one."""

    def write(folder: Path) -> Path:
        path = folder / "promise.stl"
        path.write_bytes(b"\0" * 80 + struct.pack("<I", faces) + b"\0" * 50)
        return path

    return write


def large_file(folder: Path) -> Path:
    """A gigabyte that takes no room on the disk."""
    path = folder / "large.stl"
    with path.open("wb") as file:
        file.truncate(2**30)
    return path


def many_faces(folder: Path) -> trimesh.Trimesh:
    faces = np.zeros((5_000_001, 3), dtype=np.int32)
    faces[:, 1], faces[:, 2] = 1, 2
    mesh = trimesh.Trimesh(process=False)
    mesh.vertices, mesh.faces = np.eye(3), faces
    return mesh


def empty_file(folder: Path) -> Path:
    (folder / "empty.obj").write_text("")
    return folder / "empty.obj"


def nan_file(folder: Path) -> Path:
    (folder / "nan.obj").write_text("v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n")
    return folder / "nan.obj"


def message_of(run: Callable[[], object]) -> str:
    with pytest.raises(Omni123Error) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def command_error(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and len(error.splitlines()) == 1, error
    return error


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (claimed_huge, "20000 x 20000|400,?000,?000|pixels"),
        (really_huge, "20000 x 20000|400,?000,?000|pixels"),
        (corrupt, "corrupt.png"),
    ],
)
def test_pictures(make, message, tiny_pipeline, tiny_pipeline_folder, tmp_path, capsys):
    import re

    path, before = make(tmp_path), peak_mib()
    pipeline = Omni123ImageTo3DPipeline.from_pipe(tiny_pipeline)
    assert re.search(message, message_of(lambda: pipeline(path)))
    error = command_error(
        capsys, "image-to-3d", path, "--out", tmp_path / "out", "--model", tiny_pipeline_folder, "--quiet"
    )
    assert re.search(message, error) and not (tmp_path / "out").exists()
    assert peak_mib() - before < MEMORY_MIB


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "1", "I;16", "P", "CMYK"])
def test_every_mode_of_a_file_is_read_as_the_same_picture(mode, tiny_pipeline, tmp_path):
    pipeline = Omni123ImageTo3DPipeline.from_pipe(tiny_pipeline)
    grey = np.full((16, 16), 255, np.uint8)
    grey[4:12, 4:12] = 0
    picture = Image.fromarray(grey)
    wanted = pipeline.encode_images(picture.convert("RGB"))
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "CMYK":
        assert torch.equal(pipeline.encode_images(picture.convert("RGB").convert("CMYK")), wanted)
        return
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "picture.png")
    assert torch.equal(pipeline.encode_images(tmp_path / "picture.png"), wanted)


@pytest.mark.parametrize(
    ("make", "message", "has_file"),
    [
        (empty_file, "empty.obj", True),
        (nan_file, "nan.obj", True),
        (large_file, "large.stl", True),
        (stl_of(1_000_000_000), "promise.stl", True),
        (many_faces, "5,000,001 faces", False),
    ],
)
def test_meshes(make, message, has_file, tiny_pipeline, tiny_pipeline_folder, tmp_path, capsys):
    shape, before = make(tmp_path), peak_mib()
    pipeline = Omni123EditPipeline.from_pipe(tiny_pipeline)
    assert message in message_of(lambda: pipeline(shape, "wider"))
    if has_file:
        rest = ["--out", tmp_path / "out", "--model", tiny_pipeline_folder, "--quiet"]
        assert message in command_error(capsys, "edit", "wider", "--mesh", shape, *rest)
        assert not (tmp_path / "out").exists()
    assert peak_mib() - before < MEMORY_MIB


def test_an_open_mesh_and_one_far_away_work(tiny_pipeline, tmp_path):
    pipeline = Omni123ShapeToImagePipeline.from_pipe(tiny_pipeline)

    def tokens(shape) -> torch.Tensor:
        return pipeline(shape, output_type="tokens").shape_tokens

    # 0.25 and 10^6 are exact in binary: what differs is only what single precision would lose.
    near = trimesh.creation.box((0.5, 1.0, 0.25))
    far = near.copy()
    far.apply_translation([1e6, -1e6, 1e6])
    assert torch.equal(tokens(far), tokens(near))
    # A text file keeps its digits; GLB and binary STL are single precision and have lost them before we read.
    (tmp_path / "far.obj").write_text(
        "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in far.vertices)
        + "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in far.faces)
    )
    assert torch.equal(tokens(tmp_path / "far.obj"), tokens(near))
    opened = trimesh.Trimesh(near.vertices, near.faces[:-2], process=False)
    assert not opened.is_watertight and tokens(opened).shape == (1, 8)


@pytest.mark.parametrize("instruction", ["xyzzy frobnicate", "mach ihn größer", "椅子を高く", "🪑"])
def test_instructions_in_unknown_words_are_read_as_pieces(instruction, tiny_pipeline):
    pipeline = Omni123EditPipeline.from_pipe(tiny_pipeline)
    assert pipeline(torch.arange(8), instruction, output_type="tokens").shape_tokens.shape == (1, 8)


@pytest.mark.parametrize("view", ["below", "Front", "three_quarter", ""])
def test_views_that_do_not_exist(view, tiny_pipeline, tiny_pipeline_folder, tmp_path, capsys):
    pipeline = Omni123ShapeToImagePipeline.from_pipe(tiny_pipeline)
    message = message_of(lambda: pipeline(torch.arange(8), view=view))
    assert f"no view {view!r}" in message and "front, back" in message
    trimesh.creation.box().export(tmp_path / "box.obj")
    rest = ["--out", tmp_path / "out", "--model", tiny_pipeline_folder]
    error = command_error(capsys, "render-views", tmp_path / "box.obj", "--views", view or ",", *rest)
    assert (f"no view {view!r}" if view else "at least 1 view") in error
