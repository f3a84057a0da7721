"""What SOURCE of `omni123 data prepare` may be, and how it becomes a list of assets.

| module | source |
|---|---|
| `named.py` | a name: parametric objects, fetched libraries, and what is registered with `register_source` |
| `folder.py` | a folder of meshes with captions beside them |
| `manifest.py` | a table of paths, words and licences: CSV, Parquet or JSON lines |
| `arrow.py` | a `datasets` data set on disk or on the Hub |
| `repository.py` | an Objaverse-style repository: model files and metadata JSON |
"""

from .base import FileAsset, InputOptions
from .named import register_source
from .read import read_source


__all__ = ["FileAsset", "InputOptions", "read_source", "register_source"]
