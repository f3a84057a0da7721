"""What the views of one asset cost: eight 256 x 256 views of an 80,000-face closed mesh on one core.

OMP_NUM_THREADS=1 python benchmarks/data_rendering.py --out benchmarks/results/data_rendering.json

Seconds are processor time of this process, the least of the repeats. The eight views are the six canonical ones and two
random ones. A view is colour with coverage, depth, normals and silhouette; reading the mesh is not included. The goal is
one core-second for flat shading at supersample 2, the setting of prepared data sets.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from omni123_hf.geometry.cameras import CANONICAL_VIEWS, Camera, get_camera, random_camera
from omni123_hf.geometry.lighting import random_lighting
from omni123_hf.geometry.rasterizer import render
from omni123_hf.geometry.rendering import SoftwareRenderer


SIZE = 256


def bumpy_sphere(faces: int = 80_000) -> trimesh.Trimesh:
    """A closed, displaced sphere of about `faces` faces, with a colour a vertex."""
    rings = round((faces / 4) ** 0.5)
    mesh = trimesh.creation.uv_sphere(radius=0.9, count=[rings, rings])
    points = np.asarray(mesh.vertices)
    mesh.vertices = points * (1.0 + 0.06 * np.prod(np.sin(points * [9.0, 7.0, 8.0]), axis=1, keepdims=True))
    colors = np.rint(127.5 * (1.0 + np.sin(points * [3.0, 4.0, 5.0])))
    rgba = np.column_stack([colors, np.full(len(points), 255)]).astype(np.uint8)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=rgba)
    return mesh


def textured(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh with a 1,024² texture laid around it."""
    points = np.asarray(mesh.vertices)
    uv = np.column_stack([np.arctan2(points[:, 0], points[:, 2]) / (2 * np.pi), points[:, 1]])
    texels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(texels))
    dressed = mesh.copy()
    dressed.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return dressed


def eight_cameras(field_of_view: float = 0.0) -> list[Camera]:
    """The six canonical views and two random ones; all random when there is a field of view."""
    rng = np.random.default_rng(0)
    if field_of_view:
        return [random_camera(rng, field_of_view) for _ in range(8)]
    return [get_camera(name) for name in CANONICAL_VIEWS] + [random_camera(rng) for _ in range(2)]


def core_seconds(work: Callable[[], object], repeats: int) -> float:
    """Least processor time of `work`."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return round(min(times), 3)


def measure(faces: int = 80_000, repeats: int = 3) -> dict:
    """Core-seconds of eight views in each mode, and of writing them."""
    mesh, cameras = bumpy_sphere(faces), eight_cameras()
    dressed = textured(mesh)
    lighting = random_lighting(np.random.default_rng(0))

    def views(renderer: SoftwareRenderer, of: trimesh.Trimesh = mesh, field_of_view: float = 0.0) -> float:
        seen = eight_cameras(field_of_view)
        return core_seconds(lambda: renderer.render_views(of, seen, SIZE, lighting), repeats)

    drawn = SoftwareRenderer().render_views(mesh, cameras, SIZE, lighting)
    with tempfile.TemporaryDirectory() as folder:
        writing = core_seconds(lambda: [view.save(folder, str(n)) for n, view in enumerate(drawn)], repeats)
    return {
        "faces": len(mesh.faces),
        "closed": bool(mesh.is_watertight),
        "size": SIZE,
        "views": len(cameras),
        "core_seconds": {
            "flat, supersample 1": views(SoftwareRenderer(supersample=1)),
            "flat, supersample 2": views(SoftwareRenderer()),
            "flat, supersample 3": views(SoftwareRenderer(supersample=3)),
            "flat, supersample 2, perspective": views(SoftwareRenderer(), field_of_view=40.0),
            "smooth, supersample 2": views(SoftwareRenderer(crease_angle=40.0)),
            "smooth, vertex colours a sample, supersample 2": views(
                SoftwareRenderer(crease_angle=40.0, per_pixel_color=True)
            ),
            "flat, textured, supersample 2": views(SoftwareRenderer(per_pixel_color=True), dressed),
            "rasterizer.render, supersample 2": core_seconds(
                lambda: [render(mesh, camera, SIZE) for camera in cameras], repeats
            ),
            "writing the files": writing,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=80_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = {"threads": os.environ.get("OMP_NUM_THREADS"), **measure(arguments.faces, arguments.repeats)}
    print(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
