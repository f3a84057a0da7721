"""Token shards: every asset of a prepared data set as shape tokens and, per view, image tokens.

Flat uint16 arrays (code ids only, specials live outside), row i belonging to row i of the data set, with the hashes of the
tokenizers that wrote them: a model must not be trained on tokens of other tokenizers.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import Omni123Error


def weights_hash(folder: Path) -> str:
    """SHA-256 over the safetensors files of a saved model."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise Omni123Error(f"{folder} holds no safetensors file: give the folder of a saved model.")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


@dataclass
class TokenStore:
    """`shape_tokens (N, Ls)` and `image_tokens (N, V, Li)` uint16; `info` holds tokenizer hashes, data hash and view names."""

    shape_tokens: np.ndarray
    image_tokens: np.ndarray
    info: dict

    @classmethod
    def open(cls, folder: str | Path) -> "TokenStore":
        """Memory-maps a token folder. Raises `Omni123Error` when it is missing or incomplete."""
        folder = Path(folder)
        try:
            return cls(
                np.load(folder / "shape_tokens.npy", mmap_mode="r"),
                np.load(folder / "image_tokens.npy", mmap_mode="r"),
                json.loads((folder / "tokens.json").read_text()),
            )
        except (OSError, ValueError) as error:
            raise Omni123Error(
                f"{folder} is not a token folder ({error}): write it with `omni123 train tokenize`."
            ) from error

    def save(self, folder: str | Path) -> None:
        """Writes the folder; `tokens.json` comes last, so an interrupted write never looks complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "shape_tokens.npy", self.shape_tokens.astype(np.uint16))
        np.save(folder / "image_tokens.npy", self.image_tokens.astype(np.uint16))
        (folder / "tokens.json").write_text(json.dumps(self.info, indent=1) + "\n")

    def check(self, shape_tokenizer: Path, image_tokenizer: Path, image_vae: Path) -> None:
        """Raises `Omni123Error` when the tokens were written by other tokenizers."""
        for name, folder in (
            ("shape_tokenizer", shape_tokenizer),
            ("image_tokenizer", image_tokenizer),
            ("image_vae", image_vae),
        ):
            if self.info[name] != weights_hash(folder):
                raise Omni123Error(
                    f"the tokens were written by another {name} than {folder}: run `omni123 train tokenize` again."
                )
