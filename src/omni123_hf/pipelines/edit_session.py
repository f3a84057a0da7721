"""A tree of edits of one shape: sequential edits, branches, undo, replay; saved to one folder (paper §5, Figure 2).

```python
session = EditSession(Omni123EditPipeline.from_pretrained("omni123-mini"), "chair.glb")
session.edit("add armrests")
session.edit("make the back taller")
session.undo()
session.edit("make it wider")  # A second branch below the armrests.
session.save("chair_session")
```

| file | content |
|---|---|
| `session.json` | nodes with parent, instruction, seed, settings, locality, health; the checkpoint's revision; written last |
| `tokens.safetensors` | shape tokens (Ls,) of each node, under its number |
| `node_0001.glb` | the mesh of each node that has a surface |
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import trimesh
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omni123_hf import __version__
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.export import export_glb
from omni123_hf.geometry.loading import load_mesh
from omni123_hf.pipelines.pipeline_base import DEFAULT_RESOLUTION, StepCallback
from omni123_hf.pipelines.pipeline_edit import Omni123EditPipeline
from omni123_hf.pipelines.provenance import provenance
from omni123_hf.pipelines.shape_input import Shape, encode_shapes


SESSION_FORMAT = 1
SESSION_FILE, TOKENS_FILE = "session.json", "tokens.safetensors"
# Of `Omni123EditPipeline.__call__`; the others belong to one call and not to a node.
NODE_SETTINGS = (
    "guidance_scale",
    "guidance_schedule",
    "guidance_drops",
    "source_bias",
    "temperature",
    "top_k",
    "top_p",
    "resolution",
    "extraction",
)


@dataclass
class EditNode:
    """One state of the shape. The root (number 0, parent None) is what was given; `instruction` made a node from its parent.

    tokens: (Ls,) on the CPU. mesh: None where the tokens have no surface (`failure` says why). locality: against the parent.
    """

    number: int
    parent: int | None
    instruction: str
    seed: int | None
    settings: dict[str, Any]
    tokens: torch.Tensor
    mesh: trimesh.Trimesh | None = None
    changed: bool | None = None
    locality: dict[str, Any] | None = None
    health: dict[str, Any] | None = None
    failure: str | None = None
    children: list[int] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Everything but tokens and mesh, as plain JSON."""
        return {name: value for name, value in self.__dict__.items() if name not in ("tokens", "mesh")}


class EditSession:
    """`nodes` by number; `current` is the one that the next edit starts from."""

    def __init__(
        self,
        pipeline: Omni123EditPipeline,
        shape: Shape,
        resolution: int = DEFAULT_RESOLUTION,
        callback_on_extraction: Callable[[int, int], object] | None = None,
    ):
        """shape: what the edits begin with. callback_on_extraction(done, total) counts the field evaluations of its mesh."""
        self.pipeline, self.resolution = pipeline, resolution
        tokens = encode_shapes(shape, pipeline.shape_tokenizer).tokens
        if len(tokens) != 1:
            raise Omni123Error(f"a session edits one shape; got {len(tokens)}")
        self.nodes = [EditNode(0, None, "", None, {}, tokens[0].cpu())]
        self.current = 0
        self._decode(self.nodes[0], callback_on_extraction)

    @property
    def node(self) -> EditNode:
        """The current node."""
        return self.nodes[self.current]

    def edit(
        self,
        instruction: str,
        seed: int | None = None,
        at: int | None = None,
        *,
        callback_on_step_end: StepCallback | None = None,
        callback_on_extraction: Callable[[int, int], object] | None = None,
        **settings: Any,
    ) -> EditNode:
        """Edits the current node, or node `at`; the new node becomes the current one.

        settings: those of `Omni123EditPipeline.__call__` that are kept with a node (`NODE_SETTINGS`). The callbacks are that
        call's, too; one that raises stops the edit, and the session stays as it was.
        """
        unknown = sorted(set(settings) - set(NODE_SETTINGS))
        if unknown:
            raise Omni123Error(f"an edit has no setting {unknown[0]!r}; it takes {', '.join(NODE_SETTINGS)}")
        parent = self.node if at is None else self.get(at)
        settings.setdefault("resolution", self.resolution)
        output: Any = self.pipeline(
            parent.tokens,
            instruction,
            seed=seed,
            callback_on_step_end=callback_on_step_end,
            callback_on_extraction=callback_on_extraction,
            **settings,
        )
        node = EditNode(
            number=len(self.nodes),
            parent=parent.number,
            instruction=instruction,
            seed=seed,
            settings=settings,
            tokens=output.shape_tokens[0].cpu(),
            mesh=output.meshes[0],
            changed=output.changed[0],
            locality=output.locality[0],
            health=output.health[0],
            failure=output.failures[0],
        )
        self.nodes.append(node)
        parent.children.append(node.number)
        self.current = node.number
        return node

    def get(self, number: int) -> EditNode:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self.nodes):
            raise Omni123Error(f"the session has nodes 0 to {len(self.nodes) - 1}; there is no node {number!r}")
        return self.nodes[number]

    def go_to(self, number: int) -> EditNode:
        """Makes another node the current one."""
        self.current = self.get(number).number
        return self.node

    def undo(self) -> EditNode:
        """Goes to the parent; nothing is lost, `go_to` leads back. Raises `Omni123Error` at the root."""
        if self.node.parent is None:
            raise Omni123Error("this is the shape that the session began with; there is no edit to undo")
        return self.go_to(self.node.parent)

    def path(self, number: int | None = None) -> list[EditNode]:
        """The nodes from the root to a node, the current one by default."""
        found = [self.node if number is None else self.get(number)]
        while found[-1].parent is not None:
            found.append(self.nodes[found[-1].parent])
        return found[::-1]

    def replay(self) -> "EditSession":
        """A new session with every edit done again, in order, with its seed and settings. Greedy and seeded edits repeat."""
        again = EditSession(self.pipeline, self.nodes[0].tokens, self.resolution)
        for node in self.nodes[1:]:
            again.edit(node.instruction, node.seed, node.parent, **node.settings)
        again.current = self.current
        return again

    def save(self, folder: str | Path) -> Path:
        """Writes the session; an earlier one in `folder` is replaced only when the new one is whole."""
        folder = Path(folder)
        if folder.exists() and not (folder / SESSION_FILE).is_file():
            raise Omni123Error(f"{str(folder)!r} exists and holds no session; choose another folder")
        temporary = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({str(node.number): node.tokens for node in self.nodes}, temporary / TOKENS_FILE)
        for node in self.nodes:
            if node.mesh is not None:
                export_glb(node.mesh, temporary / mesh_file(node.number), self.provenance(node))
        facts = {
            "format": SESSION_FORMAT,
            "omni123_hf": __version__,
            "model_revision": self.pipeline.revision,
            "resolution": self.resolution,
            "current": self.current,
            "nodes": [node.facts() for node in self.nodes],
        }
        (temporary / SESSION_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
        return folder

    def provenance(self, node: EditNode) -> dict[str, Any]:
        """What goes into the mesh file of a node: where it came from."""
        return provenance(
            self.pipeline,
            instruction=node.instruction or None,
            seed=node.seed,
            settings=node.settings,
            node=node.number,
            edit_parent=node.parent,
            edit_path=[step.instruction for step in self.path(node.number)[1:]],
        )

    @classmethod
    def load(cls, folder: str | Path, pipeline: Omni123EditPipeline) -> "EditSession":
        """Opens a saved session; nothing is generated. Raises `Omni123Error` for a folder that holds no whole one."""
        folder = Path(folder)
        if not (folder / SESSION_FILE).is_file():
            raise Omni123Error(f"{str(folder)!r} holds no editing session (no {SESSION_FILE})")
        try:
            facts = json.loads((folder / SESSION_FILE).read_text(encoding="utf-8"))
            if facts["format"] != SESSION_FORMAT:
                raise Omni123Error(
                    f"{str(folder)!r} is a session of format {facts['format']}; this version reads {SESSION_FORMAT}"
                )
            tokens = load_file(folder / TOKENS_FILE)
            nodes = [EditNode(**entry, tokens=tokens[str(entry["number"])]) for entry in facts["nodes"]]
            current, resolution, revision = facts["current"], facts["resolution"], facts["model_revision"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, Omni123Error):
                raise
            raise Omni123Error(
                f"the session in {str(folder)!r} is damaged: {type(error).__name__}: {error}"
            ) from error
        if revision != pipeline.revision:
            raise Omni123Error(
                f"the session in {str(folder)!r} was made with revision {revision} of its checkpoint, and this pipeline is "
                f"{pipeline.revision}; load that checkpoint, or begin a new session with its last mesh"
            )
        session = cls.__new__(cls)
        session.pipeline, session.resolution, session.nodes, session.current = pipeline, resolution, nodes, current
        for number, node in enumerate(nodes):
            if node.number != number or (node.parent is None) != (number == 0):
                raise Omni123Error(f"the session in {str(folder)!r} is damaged: its nodes do not form a tree")
            if node.failure is None:
                node.mesh = load_mesh(folder / mesh_file(number))
        session.get(current)
        return session

    def _decode(self, node: EditNode, progress: Callable[[int, int], object] | None = None) -> None:
        tokens = node.tokens[None].to(self.pipeline.shape_tokenizer.device)
        with torch.no_grad():
            meshes, failures, health = self.pipeline.decode_and_check_shapes(tokens, self.resolution, progress, {})
        node.mesh, node.failure, node.health = meshes[0], failures[0], health[0]


def mesh_file(number: int) -> str:
    return f"node_{number:04d}.glb"
