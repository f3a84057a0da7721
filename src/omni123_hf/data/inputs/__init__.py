"""What SOURCE of `omni123 data prepare` may be, and how it becomes a list of assets.

| module | source |
|---|---|
| `named.py` | a name: parametric objects, fetched libraries, and what is registered with `register_source` |
| `folder.py` | a folder of meshes with captions beside them |
| `manifest.py` | a table of paths, words and licences: CSV, Parquet or JSON lines |
| `arrow.py` | a `datasets` data set on disk or on the Hub |
| `repository.py` | an Objaverse-style repository: model files and metadata JSON |
| `pictures.py` | the same for pictures without shapes: a name, a folder, a table |

`kinds.py` tells meshes from pictures.
"""

from .base import FileAsset, InputOptions
from .kinds import kind_of_source
from .named import register_source
from .pictures import read_pictures
from .read import read_source


__all__ = ["FileAsset", "InputOptions", "kind_of_source", "read_pictures", "read_source", "register_source"]
