"""What the geometry of one asset costs on one core: samples, labels, watertight conversion, filters, round trip.

    python benchmarks/data_geometry.py --out benchmarks/results/data_geometry.json

The asset is made here: a displaced sphere united with a displaced torus, about 80,000 faces, closed; the open variant
lacks the top, 2% of its faces. Seconds are processor time of this process, the least of a few runs.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


# Before NumPy and libigl start their threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "IGL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import trimesh  # noqa: E402
from manifold3d import Manifold, Mesh64  # noqa: E402

from omni123_hf.geometry.filters import check_filters  # noqa: E402
from omni123_hf.geometry.normalization import normalize_mesh  # noqa: E402
from omni123_hf.geometry.round_trip import round_trip  # noqa: E402
from omni123_hf.geometry.sampling import sample_queries, sample_surface  # noqa: E402
from omni123_hf.geometry.sharp_edges import sample_surface_and_edges  # noqa: E402
from omni123_hf.geometry.signed_distance import SolidField  # noqa: E402
from omni123_hf.geometry.solid import SolidLabeler  # noqa: E402
from omni123_hf.geometry.watertight import make_watertight  # noqa: E402


SURFACE_POINTS, LABELLED_POINTS = 100_000, 500_000
TARGET_SECONDS = 3.0


def closed_asset() -> trimesh.Trimesh:
    """A displaced sphere united with a displaced torus, normalised, about 80,000 faces."""
    sphere = trimesh.creation.icosphere(5, 0.7).subdivide()
    torus = trimesh.creation.torus(0.9, 0.25, major_sections=160, minor_sections=60)
    solids = []
    for part in (sphere, torus):
        v = part.vertices
        part.vertices = v + 0.02 * np.sin(17 * v[:, [1, 2, 0]]) * np.cos(13 * v[:, [2, 0, 1]])
        solids.append(Manifold(Mesh64(np.asarray(part.vertices), np.asarray(part.faces, dtype=np.uint64))))
    united = (solids[0] + solids[1]).to_mesh64()
    return normalize_mesh(trimesh.Trimesh(united.vert_properties[:, :3], united.tri_verts, process=False))[0]


def open_asset() -> trimesh.Trimesh:
    """The closed asset without the 2% of its faces that are highest."""
    mesh = closed_asset()
    height = mesh.triangles_center[:, 1]
    return trimesh.Trimesh(mesh.vertices, mesh.faces[height < np.quantile(height, 0.98)], process=False)


def seconds(work: Callable[[], Any], runs: int = 3) -> float:
    """Least processor time of `runs` calls."""
    times = []
    for _ in range(runs):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def label_cost(mesh: trimesh.Trimesh) -> dict[str, Any]:
    """100,000 surface samples and 500,000 labelled points, trees and voxels built anew: occupancy, and with distance."""
    rng = np.random.default_rng(0)

    def surface() -> np.ndarray:
        return sample_surface(mesh, SURFACE_POINTS, rng)[0]

    points = sample_queries(surface(), LABELLED_POINTS, rng)
    parts = {
        "surface_samples": seconds(surface),
        "surface_and_edge_samples": seconds(lambda: sample_surface_and_edges(mesh, SURFACE_POINTS, rng)),
        "query_points": seconds(lambda: sample_queries(points[:SURFACE_POINTS], LABELLED_POINTS, rng)),
        "occupancy": seconds(lambda: SolidField(mesh).occupancy(points)),
        "signed_distance": seconds(lambda: SolidField(mesh).signed_distance(points)),
        "occupancy_point_by_point": seconds(lambda: SolidLabeler(mesh).occupancy(points), runs=1),
    }
    shared = parts["surface_and_edge_samples"] + parts["query_points"]
    total = {"with_occupancy": shared + parts["occupancy"], "with_distance": shared + parts["signed_distance"]}
    return {
        "faces": len(mesh.faces),
        "method": SolidLabeler(mesh).method,
        "seconds": parts,
        "total_seconds": total,
        "target_seconds": TARGET_SECONDS,
        "target_reached": max(total.values()) <= TARGET_SECONDS,
    }


def watertight_cost(mesh: trimesh.Trimesh, resolution: int = 256) -> dict[str, Any]:
    """Conversion to a closed solid."""
    result = make_watertight(mesh, resolution)
    return {
        "resolution": resolution,
        "method": result.method,
        "reason": result.reason,
        "faces": len(result.mesh.faces),
        "volume": float(result.mesh.volume),
        "bridged_share": result.bridged_share,
        "seconds": seconds(lambda: make_watertight(mesh, resolution), runs=2),
    }


def round_trip_cost(mesh: trimesh.Trimesh, resolution: int = 256) -> dict[str, Any]:
    """The mesh extracted again from its labels, and how far it is from the original."""
    figures = round_trip(mesh, resolution).to_dict()
    return {"resolution": resolution, **figures, "seconds": seconds(lambda: round_trip(mesh, resolution), runs=2)}


def filter_cost(mesh: trimesh.Trimesh) -> dict[str, Any]:
    """All filters."""
    return {
        "findings": [finding.to_dict() for finding in check_filters(mesh)],
        "seconds": seconds(lambda: check_filters(mesh), runs=2),
    }


def measure() -> dict[str, Any]:
    """All figures of both assets."""
    closed, opened = closed_asset(), open_asset()
    return {
        "labels_closed": label_cost(closed),
        "labels_open": label_cost(opened),
        "watertight_closed": watertight_cost(closed),
        "watertight_open": watertight_cost(opened),
        "round_trip": round_trip_cost(closed),
        "filters_closed": filter_cost(closed),
        "filters_open": filter_cost(opened),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = measure()
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
