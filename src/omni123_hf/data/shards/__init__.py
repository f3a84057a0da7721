"""Token shards: what training reads, as flat uint16 files with a Parquet manifest; see `docs/shards.md`.

| module | what it decides |
|---|---|
| `format.py`, `index.py`, `manifest.py` | files, `shards.json`, rows of the manifest |
| `writer.py`, `locks.py` | one pool, resumable, one writer at a time |
| `pool_parts.py`, `store_tokens.py` | what prepared folders of each kind give to a pool, and several of them to one |
| `tokenizers.py`, `edits.py`, `text.py` | where tokens and text embeddings come from; editing pairs handed in as objects |
| `reader.py`, `order.py`, `streaming.py`, `statistics.py` | random access, order of records, streams, use of the codes |
| `hub.py`, `card.py` | the same as a data set of the Hub |
| `training_pool.py` | what a trainer reads of one pool |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from omni123_hf.data.shards.edits import EditTokens, write_edits
    from omni123_hf.data.shards.hub import export_hub_folder, push_to_hub
    from omni123_hf.data.shards.reader import Pool, TokenShards
    from omni123_hf.data.shards.streaming import ShuffledRecords, ShuffledStream, as_hf_stream, stream_from_hub
    from omni123_hf.data.shards.training_pool import TrainingPool

_MODULES = {
    "EditTokens": "edits",
    "write_edits": "edits",
    "export_hub_folder": "hub",
    "push_to_hub": "hub",
    "Pool": "reader",
    "TokenShards": "reader",
    "TrainingPool": "training_pool",
    "ShuffledRecords": "streaming",
    "ShuffledStream": "streaming",
    "as_hf_stream": "streaming",
    "stream_from_hub": "streaming",
}
__all__ = [
    "EditTokens",
    "Pool",
    "ShuffledRecords",
    "ShuffledStream",
    "TokenShards",
    "TrainingPool",
    "as_hf_stream",
    "export_hub_folder",
    "push_to_hub",
    "stream_from_hub",
    "write_edits",
]


def __getattr__(name: str) -> Any:
    # Late: pyarrow and datasets are extras, and the training stages import this package without using shards.
    if name in _MODULES:
        return getattr(import_module(f"omni123_hf.data.shards.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
