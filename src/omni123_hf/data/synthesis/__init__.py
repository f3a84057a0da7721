"""Synthesised assets (paper §3.5): prompts → image → cut-out → mesh → quality → captions, one named step each.

| module | what it decides |
|---|---|
| `prompts.py` | where prompts come from |
| `curation.py`, `near_duplicates.py`, `words/` | which prompts are kept, and in what form |
| `background.py`, `onnx_background.py` | what of an image is the object |
| `quality.py` | the three axes that a mesh has to pass |
| `steps.py` | the steps and what each takes and leaves |
| `pipeline.py` | their order, state on disk, quarantine |
| `assets.py` | finished items as assets that `data.prepare.prepare_dataset` takes |
| `export.py` | finished items as a folder that `omni123 data prepare` reads |

Generators are handed in: any callable of the form that `steps.py` names. `pipelines.synthesis_adapters` makes them of
our own checkpoints.
"""
