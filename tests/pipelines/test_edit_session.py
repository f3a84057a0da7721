"""The tree of edits: branches, undo, replay, and a folder that brings it back without generating anything."""

import json

import pytest
import torch
import trimesh

from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines import Omni123EditPipeline
from omni123_hf.pipelines.edit_session import EditSession


@pytest.fixture
def session(tiny_pipeline):
    pipeline = Omni123EditPipeline.from_pipe(tiny_pipeline)
    pipeline.revision = tiny_pipeline.revision
    session = EditSession(pipeline, trimesh.creation.box((1, 2, 0.5)), resolution=16)
    session.edit("make it taller", seed=1, temperature=1.0)
    session.edit("add a handle")
    session.undo()
    session.edit("make it red", seed=2, temperature=1.0)
    return session


def test_branches_and_paths(session):
    assert [node.parent for node in session.nodes] == [None, 0, 1, 1]
    assert session.nodes[1].children == [2, 3] and session.current == 3
    assert [node.instruction for node in session.path()] == ["", "make it taller", "make it red"]
    assert [node.number for node in session.path(2)] == [0, 1, 2]
    session.edit("add wings", at=0)
    assert session.node.parent == 0
    session.go_to(0)
    with pytest.raises(Omni123Error, match="no edit to undo"):
        session.undo()
    with pytest.raises(Omni123Error, match="no node 9"):
        session.go_to(9)
    with pytest.raises(Omni123Error, match="no setting 'num_samples'"):
        session.edit("add wings", num_samples=2)
    assert len(session.nodes) == 5


def test_an_edit_starts_from_the_tokens_of_its_parent(session):
    parent, child = session.nodes[1], session.nodes[2]
    alone = session.pipeline(parent.tokens, "add a handle", output_type="tokens")
    assert torch.equal(alone.shape_tokens[0], child.tokens)
    assert child.changed == bool((child.tokens != parent.tokens).any())


def test_replay_gives_every_node_again(session):
    again = session.replay()
    assert again.current == session.current and len(again.nodes) == len(session.nodes)
    for old, new in zip(session.nodes, again.nodes, strict=True):
        assert torch.equal(old.tokens, new.tokens) and old.facts() == new.facts()


def test_a_saved_session_comes_back_and_goes_on(session, tmp_path):
    folder = session.save(tmp_path / "chair")
    loaded = EditSession.load(folder, session.pipeline)
    assert loaded.current == session.current
    for old, new in zip(session.nodes, loaded.nodes, strict=True):
        assert torch.equal(old.tokens, new.tokens) and old.facts() == new.facts()
        assert (old.mesh is None) == (new.mesh is None)
        if old.mesh is not None:
            assert len(old.mesh.faces) == len(new.mesh.faces)
    assert torch.equal(loaded.edit("add wings").tokens, session.edit("add wings").tokens)
    loaded.save(folder)
    assert len(EditSession.load(folder, session.pipeline).nodes) == 5
    assert not list(tmp_path.glob(".*"))


def test_folders_that_hold_no_session_are_refused(session, tmp_path):
    with pytest.raises(Omni123Error, match="holds no editing session"):
        EditSession.load(tmp_path, session.pipeline)
    with pytest.raises(Omni123Error, match="holds no session; choose another"):
        session.save(tmp_path)
    folder = session.save(tmp_path / "one")
    facts = json.loads((folder / "session.json").read_text())
    for broken, message in (
        ({**facts, "format": 9}, "format 9"),
        ({**facts, "model_revision": "other"}, "revision other"),
        ({**facts, "nodes": facts["nodes"][1:]}, "do not form a tree"),
        ({**facts, "current": 40}, "no node 40"),
        ({key: value for key, value in facts.items() if key != "nodes"}, "damaged"),
    ):
        (folder / "session.json").write_text(json.dumps(broken))
        with pytest.raises(Omni123Error, match=message):
            EditSession.load(folder, session.pipeline)
    (folder / "session.json").write_text(json.dumps(facts))
    (folder / "tokens.safetensors").write_bytes(b"no tokens")
    with pytest.raises(Omni123Error, match="damaged"):
        EditSession.load(folder, session.pipeline)
