"""Token shards and tokenizers for the autoregressive stages, written once a test session."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pools_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shards/` with three pools, and the tokenizers that "wrote" them. Read only."""
    from tiny_pools import save_tokenizers, write_pools

    folder = tmp_path_factory.mktemp("pools")
    write_pools(folder / "shards", save_tokenizers(folder))
    return folder
