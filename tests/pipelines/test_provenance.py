"""What a mesh file says of its origin, read from the JSON of the GLB itself."""

import json
import shutil
import struct
from pathlib import Path

import trimesh

from omni123_hf import __version__
from omni123_hf.geometry.export import export_glb
from omni123_hf.pipelines import Omni123EditPipeline, Omni123JointPipeline
from omni123_hf.pipelines.edit_session import EditSession
from omni123_hf.pipelines.provenance import provenance
from omni123_hf.pipelines.registry import licences, write_provenance


def glb_asset(path: Path) -> dict:
    """`asset` of a GLB, without any library."""
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    return json.loads(data[20 : 20 + length])["asset"]


def licensed(folder: Path, source: Path) -> Path:
    """A copy of a checkpoint that says its licences."""
    shutil.copytree(source, folder)
    sources = [
        {"source": "a", "licence": "CC-BY-2.0"},
        {"source": "b", "licence": "CC0-1.0"},
        {"source": "c", "licence": "CC0-1.0"},
    ]
    (folder / "data_lineage.json").write_text(json.dumps({"sources": sources}))
    write_provenance(folder, licence="Apache-2.0")
    return folder


def test_a_mesh_file_names_its_generator_checkpoint_call_and_licences(tiny_pipeline_folder, tmp_path):
    pipeline = Omni123JointPipeline.from_pretrained(licensed(tmp_path / "checkpoint", tiny_pipeline_folder))
    facts = provenance(pipeline, "tiny", prompt="a vase", seed=5, image=None)
    asset = glb_asset(export_glb(trimesh.creation.box(), tmp_path / "mesh.glb", facts))
    assert asset["generator"].startswith(f"omni123-hf {__version__}")
    assert asset["extras"] == {
        "generator": "omni123-hf",
        "version": __version__,
        "task": "text-to-image-to-3d",
        "model": {"name": "tiny", "revision": pipeline.revision, "adapters": []},
        "licences": {
            "checkpoint": "Apache-2.0",
            "training_data": ["CC-BY-2.0", "CC0-1.0"],
            "attributions": "data_lineage.json of the checkpoint",
        },
        "prompt": "a vase",
        "seed": 5,
    }


def test_a_pipeline_that_shares_components_knows_their_checkpoint(tiny_pipeline):
    shared = Omni123EditPipeline.from_pipe(tiny_pipeline)
    assert shared.revision == tiny_pipeline.revision and shared.licences == tiny_pipeline.licences
    assert tiny_pipeline.revision is not None


def test_unknown_licences_are_said_to_be_unknown(tiny_pipeline, tiny_pipeline_folder):
    unknown = {"checkpoint": "unknown", "training_data": ["unknown"]}
    assert licences(tiny_pipeline_folder) == unknown
    assert provenance(Omni123JointPipeline(**tiny_pipeline.components))["licences"] == unknown


def test_the_shipped_checkpoint_says_its_licences():
    from omni123_hf.pipelines.registry import bundled_checkpoints

    found = licences(bundled_checkpoints()["omni123-mini"])
    assert found["checkpoint"] == "Apache-2.0"
    assert "unknown" not in found["training_data"] and len(found["training_data"]) >= 1


def test_the_nodes_of_a_session_name_their_parents(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_pipeline.shape_tokenizer, "query", lambda latents, queries: 0.7 - queries.norm(dim=-1))
    session = EditSession(
        Omni123EditPipeline.from_pipe(tiny_pipeline), trimesh.creation.box((1, 2, 0.5)), resolution=16
    )
    session.edit("wider", seed=3)
    session.edit("taller")
    session.save(tmp_path / "session")
    root, first, second = (glb_asset(tmp_path / "session" / f"node_{n:04d}.glb")["extras"] for n in range(3))
    assert "edit_parent" not in root and "instruction" not in root and root["edit_path"] == []
    assert (first["edit_parent"], first["instruction"], first["seed"]) == (0, "wider", 3)
    assert (second["edit_parent"], second["edit_path"]) == (1, ["wider", "taller"])
    assert all(extras["licences"]["checkpoint"] and extras["model"]["revision"] for extras in (root, first, second))
