"""A tree of edits as lines of text that a person can pick from."""

from omni123_hf.pipelines.edit_session import EditNode, EditSession


LABEL_LENGTH = 60


def tree_lines(session: EditSession) -> list[tuple[str, int]]:
    """(line, node number) of every node, each below its parent: `0  start`, `├─ 1  add armrests`, `│  └─ 3  make it taller`."""
    lines: list[tuple[str, int]] = []

    def walk(node: EditNode, before: str, branch: str, below: str) -> None:
        lines.append((f"{before}{branch}{label(node)}", node.number))
        for number in node.children:
            is_last = number == node.children[-1]
            walk(session.nodes[number], before + below, "└─ " if is_last else "├─ ", "   " if is_last else "│  ")

    walk(session.nodes[0], "", "", "")
    return lines


def label(node: EditNode) -> str:
    """A node in one line."""
    text = " ".join(node.instruction.split()) or "start"
    if len(text) > LABEL_LENGTH:
        text = text[: LABEL_LENGTH - 1].rstrip() + "…"
    return f"{node.number}  {text}" + ("" if node.failure is None else "  (no surface)")
