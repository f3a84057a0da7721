"""Where converted weights come from and what their licence is: lineage and model card."""

import json
import os
from pathlib import Path
from typing import Any

from omni123_hf.conversion.source_file import SourceFile
from omni123_hf.modeling.configuration_omni123 import Omni123Config
from omni123_hf.modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig


UPSTREAM = "https://github.com/Roblox/cube"
LICENCE_NAME = "cube3d-research-only-rail-ms"
LICENCE = f"{LICENCE_NAME} (research use only; {UPSTREAM}); the Hub pages of the checkpoints say openrail"
# (hidden, dual, single, codes, code dimension, latents, box) of the public releases.
RELEASES = {
    (1536, 23, 1, 16384, 32, 512, False): "Roblox/cube3d-v0.1",
    (1536, 23, 1, 16384, 32, 1024, True): "Roblox/cube3d-v0.5",
}


def lineage(
    files: dict[str, SourceFile],
    config: Omni123Config,
    tokenizer: Omni123ShapeTokenizerConfig,
    has_settings: bool,
    unknown_settings: list[str],
    dtype: str | None,
    text_encoder: str | None,
) -> dict[str, Any]:
    """Facts about the source files; `base_model` is None when neither their origin nor their sizes name a release."""
    sizes = (
        config.hidden_size,
        config.num_dual_layers,
        config.num_single_layers,
        tokenizer.num_codes,
        tokenizer.code_dim,
        tokenizer.num_latents,
        config.use_bbox,
    )
    # A local folder is named without the folders above it: those are of this machine.
    is_local = text_encoder is not None and os.path.exists(os.path.expanduser(text_encoder))
    return {
        "format": "Cube 3D",
        "base_model": files["gpt"].hub_id or RELEASES.get(sizes),
        "files": {role: file.facts() for role, file in files.items()},
        "settings": {
            "rope_theta": config.rope_theta,
            "gpt_eps": config.layer_norm_eps,
            "tokenizer_eps": tokenizer.layer_norm_eps,
            "from": "configuration file" if has_settings else "defaults of the public releases",
            "not_used": unknown_settings,
        },
        "stored_dtype": dtype or "as in the source files",
        "text_encoder": Path(str(text_encoder)).name if is_local else text_encoder,
    }


def _origin(entry: dict[str, Any]) -> str:
    if entry["hub_id"] is None:
        return "local file"
    return f"{entry['hub_id']}@{entry['commit']}" if entry["commit"] else entry["hub_id"]


def model_card(facts: dict[str, Any]) -> str:
    """`README.md` of a converted folder, from its lineage."""
    base, text = facts["base_model"], facts["text_encoder"]
    rows = "\n".join(
        f"| {role} | {_origin(entry)} | {entry['file']} | {entry['bytes']:,} | {entry['tensors']} | "
        f"{', '.join(entry['dtypes'])} | `{entry['sha256']}` |"
        for role, entry in facts["files"].items()
    )
    origin = (
        f"These are the weights of `{base}`, renamed for the classes of omni123-hf."
        if base
        else "These weights are in the format of Cube 3D, renamed for the classes of omni123-hf. Neither their origin nor\n"
        "their sizes name a public release; if they do not derive from one, the licence is that of whoever made them."
    )
    encoder = f"`{text}`, copied into this folder under its own licence" if text else "none in this folder"
    return f"""---
license: other
license_name: {LICENCE_NAME}
license_link: {UPSTREAM}
library_name: omni123-hf
pipeline_tag: text-to-3d
{f"base_model: {base}" if base else "# base_model: unknown"}
tags:
- text-to-3d
- cube3d
- autoregressive
- mesh
---

# {base or "Cube 3D format"}, converted to omni123-hf

{origin} Text to a 3D shape; no images.

```python
from omni123_hf.pipelines import Omni123TextTo3DPipeline

pipeline = Omni123TextTo3DPipeline.from_pretrained("path/to/this/folder")
pipeline("a round wooden table with three legs").meshes[0].export("mesh.glb")
```

Text encoder: {encoder}.

## Licence

These weights are not under the licence of omni123-hf. The repository of Cube 3D ({UPSTREAM}) puts
"Cube3d-v0.1 and related inference code" under a Research-Only RAIL-MS licence: academic or research use only. The pages of
its checkpoints on the Hub carry the tag `openrail`. The two do not agree, and the stricter one stands above. Read the
licence at its source before you use these files or pass them on.

## Source files

| part | from | file | bytes | tensors | types | SHA-256 |
|---|---|---|---|---|---|---|
{rows}

All tensors are copies but two: in `embed_tokens` the rows of the codes are the projected code book, which the reference
writes there when it loads, and the output head keeps the rows of the codes only. Settings that no tensor shows:
`{json.dumps(facts["settings"])}`. Stored type: {facts["stored_dtype"]}.
Hashes of the converted files are in `provenance.json`.
"""
