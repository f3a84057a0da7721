"""The tree of edits as lines of text."""

import torch

from omni123_hf.app.history_tree import tree_lines
from omni123_hf.pipelines.edit_session import EditNode, EditSession


def test_every_node_stands_below_its_parent():
    session = EditSession.__new__(EditSession)
    edits = [
        (None, ""),
        (0, "add armrests"),
        (0, "a very\nlong " + "long " * 30),
        (1, "taller"),
        (1, "wider"),
        (3, "red"),
    ]
    session.nodes = [
        EditNode(number, parent, text, 0, {}, torch.zeros(1), failure="no surface" if text == "wider" else None)
        for number, (parent, text) in enumerate(edits)
    ]
    for node in session.nodes[1:]:
        session.nodes[node.parent].children.append(node.number)
    lines = tree_lines(session)
    assert [number for _, number in lines] == [0, 1, 3, 5, 4, 2]
    text = [line for line, _ in lines]
    assert text[:5] == [
        "0  start",
        "├─ 1  add armrests",
        "│  ├─ 3  taller",
        "│  │  └─ 5  red",
        "│  └─ 4  wider  (no surface)",
    ]
    assert text[5].startswith("└─ 2  a very long long") and text[5].endswith("…") and len(text[5]) < 70
