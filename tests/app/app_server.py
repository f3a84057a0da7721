"""A running app for tests: tiny random weights behind a real server, and what a client sends to it."""

import json
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image


# With these settings and `temperature` the tiny pipeline of `tiny_pipeline.py` gives surfaces for most seeds.
QUICK = {"resolution": 16, "temperature": 1.0}
PROMPT = "a tall red vase"


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `condition()`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def extras(path: Path | str) -> dict[str, Any]:
    """`asset.extras` of a GLB file."""
    data = Path(path).read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    return json.loads(data[20 : 20 + length])["asset"]["extras"]


def huge_png(side: int = 20_000) -> bytes:
    """A valid PNG of side x side grey pixels, a few kilobytes long."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    squeeze = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    data = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def pictures(folder: Path) -> dict[str, Path]:
    """Pictures that can be used (`good_…`) and that cannot (`bad_…`)."""
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 255, (20, 30, 4)).astype(np.uint8)
    made = {
        "good_alpha": Image.fromarray(rgba),
        "good_gray": Image.fromarray(rgba[..., 0]),
        "good_16bit": Image.fromarray(rgba[..., 0].astype(np.uint16) << 8),
        "bad_transparent": Image.fromarray(rgba * np.array([1, 1, 1, 0], dtype=np.uint8)),
    }
    found = {}
    for name, picture in made.items():
        found[name] = folder / f"{name}.png"
        picture.save(found[name])
    for name, data in (
        ("bad_huge", huge_png()),
        ("bad_corrupt", found["good_alpha"].read_bytes()[:200]),
        ("bad_text", b"<svg onload='alert(1)'/>"),
        ("bad_empty", b""),
    ):
        found[name] = folder / f"{name}.png"
        found[name].write_bytes(data)
    return found


def meshes(folder: Path) -> dict[str, Path]:
    """Meshes that can be used (`good_…`) and that cannot (`bad_…`)."""
    box = trimesh.creation.box((1.0, 2.0, 0.5))
    far = box.copy()
    far.apply_translation([1e6, 1e6, 1e6])
    opened = trimesh.Trimesh(box.vertices, box.faces[:-2], process=False)
    found = {}
    for name, mesh in (("good_box", box), ("good_far", far), ("good_open", opened)):
        found[name] = folder / f"{name}.stl"
        mesh.export(found[name])
    broken = {
        "bad_empty": "solid empty\nendsolid empty\n",
        "bad_nan": found["good_box"].read_bytes()[:84] + struct.pack("<12fH", *[float("nan")] * 12, 0) * 12,
        "bad_count": b"\0" * 80 + struct.pack("<I", 2**32 - 1),
        "bad_text": b"#!/bin/sh\nrm -rf /\n",
    }
    for name, data in broken.items():
        found[name] = folder / f"{name}.stl"
        found[name].write_bytes(data.encode() if isinstance(data, str) else data)
    return found
