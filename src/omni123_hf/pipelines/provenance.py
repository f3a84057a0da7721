"""Where a generated mesh came from: the facts that its GLB carries in `asset.extras`.

```python
export_glb(output.meshes[0], "mesh.glb", provenance(pipeline, prompt=prompt, seed=5))
```
"""

from typing import Any

from omni123_hf import __version__
from omni123_hf.pipelines.registry import UNKNOWN_LICENCE


def provenance(pipeline: Any, name: str | None = None, **facts: Any) -> dict[str, Any]:
    """Generator, task, checkpoint (revision, adapters, licences of weights and training data) and `facts` as plain JSON.

    name: what the checkpoint was asked for by. Facts of one call are, for example, prompt, instruction, seed and edit_parent; one
    that is None is left out, because it was not given. A checkpoint that does not say its licences has "unknown" ones.
    """
    unknown = {"checkpoint": UNKNOWN_LICENCE, "training_data": [UNKNOWN_LICENCE]}
    return {
        "generator": "omni123-hf",
        "version": __version__,
        "task": pipeline.task,
        "model": {
            **({} if name is None else {"name": name}),
            "revision": pipeline.revision,
            "adapters": pipeline.describe_adapters(),
        },
        "licences": pipeline.licences or unknown,
        **{key: value for key, value in facts.items() if value is not None},
    }
