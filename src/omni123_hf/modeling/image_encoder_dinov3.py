"""Pretrained DINOv3 ViT encoders for the image VAE (paper §4.3 stage I): from a folder, the Hub, or a loaded model.

Only complete encoders are accepted: `from_pretrained` fills what a checkpoint lacks with random numbers and merely warns,
and a frozen random encoder would never be noticed in training.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import metadata_load, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from yaml import YAMLError

from ..errors import Omni123Error


EXAMPLE = "facebook/dinov3-vitl16-pretrain-lvd1689m"
# Every published DINOv3 weight is under this licence; a folder whose model card names another one keeps that.
DINOV3_LICENCE: dict[str, str | None] = {
    "licence": "dinov3-license",
    "licence_link": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}
FILES = ["config.json", "preprocessor_config.json", "README.md", "*.safetensors", "*.safetensors.index.json"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class DINOv3Source:
    """A DINOv3 ViT whose configuration is known and whose weights `state_dict` brings.

    `description` becomes `encoder_source` of the VAE's configuration; it names a local folder by its last part only.
    `image_statistics` holds the folder's `image_mean` and `image_std`, where it states them.
    """

    config: DINOv3ViTConfig
    description: dict[str, Any]
    image_statistics: dict[str, list[float]]
    folder: Path | None = None
    model: DINOv3ViTModel | None = None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All weights, in the precision they are stored in. Raises `Omni123Error` when they are not all there."""
        if self.model is not None:
            return self.model.state_dict()
        name = self.description["name_or_path"]
        try:
            # A pickle (`pytorch_model.bin`) can run code when it is opened.
            loaded: Any = DINOv3ViTModel.from_pretrained(
                self.folder, dtype="auto", output_loading_info=True, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise Omni123Error(
                f"cannot load the DINOv3 weights of {name!r}: {one_line(error)}; fetch the folder again, with "
                "config.json and all .safetensors files (a pytorch_model.bin is not read: save it as safetensors first)."
            ) from error
        model, report = loaded
        for kind, problem in (("missing_keys", "lack"), ("unexpected_keys", "have, against their config.json,")):
            keys = sorted(map(str, report[kind]))
            if keys:
                raise Omni123Error(
                    f"the weights of {name!r} {problem} {len(keys)} tensors ({', '.join(keys[:3])}{', …' * (len(keys) > 3)}): "
                    "they are no complete DINOv3 ViT of transformers; fetch the folder again, or convert it first."
                )
        return model.state_dict()


def open_dinov3(
    source: str | os.PathLike | DINOv3ViTModel, revision: str | None = None, token: str | bool | None = None
) -> DINOv3Source:
    """Finds a DINOv3 ViT; a Hub id is downloaded, weights are not read yet.

    `revision` and `token` belong to a Hub id. Raises `Omni123Error` for anything that is no DINOv3 ViT, a missing path,
    and a Hub repository that is gated, absent or out of reach.
    """
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        local = Path(os.path.expanduser(name))
        if local.is_dir():
            if revision is not None:
                raise Omni123Error(
                    f"{name!r} is a folder on this machine, which has one revision: leave out revision=."
                )
            return _open_folder(local, local.resolve().name, None)
        if local.exists() or not HUB_ID.fullmatch(name):
            raise Omni123Error(f"{name!r} is neither a folder nor a Hub id: give one such as {EXAMPLE!r}.")
        folder = _download(name, revision, token)
        return _open_folder(folder, name, folder.name)
    if not isinstance(source, DINOv3ViTModel):
        raise Omni123Error(
            f"a {type(source).__name__} is no DINOv3ViTModel: give a loaded one, a folder, or a Hub id such as {EXAMPLE!r}."
        )
    if revision is not None:
        raise Omni123Error("an already loaded model has one revision: leave out revision=.")
    name = source.config._name_or_path or ""
    name = name if HUB_ID.fullmatch(name) and not Path(name).is_dir() else Path(name).name
    revision = getattr(source.config, "_commit_hash", None)
    description = {"name_or_path": name or None, "revision": revision, **DINOV3_LICENCE}
    return DINOv3Source(source.config, {**description, "architecture": "DINOv3ViTModel"}, {}, model=source)


def _download(name: str, revision: str | None, token: str | bool | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=FILES))
    except GatedRepoError as error:
        raise Omni123Error(
            f"{name!r} is gated: accept its licence at https://huggingface.co/{name}, then log in with `hf auth login` or "
            "pass token=."
        ) from error
    except RevisionNotFoundError as error:
        raise Omni123Error(
            f"{name!r} has no revision {revision!r} on the Hub: leave it out, or give a branch, tag or commit."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Omni123Error(
            f"there is no folder {name!r} and no Hub repository of that name, or it is private: correct the name, such as "
            f"{EXAMPLE!r}, or log in with `hf auth login`."
        ) from error
    except OSError as error:
        raise Omni123Error(
            f"cannot download {name!r} from the Hub: {one_line(error)}; give a local folder if there is no network."
        ) from error


def _open_folder(folder: Path, name: str, revision: str | None) -> DINOv3Source:
    raw = _read_json(folder / "config.json", name)
    kind = raw.get("model_type")
    if kind == "dinov3_convnext":
        raise Omni123Error(
            f"{name!r} is a DINOv3 ConvNeXt, which has no patch tokens at one resolution: use a DINOv3 ViT such as "
            f"{EXAMPLE!r}."
        )
    if kind != DINOv3ViTConfig.model_type:
        raise Omni123Error(
            f"{name!r} is no DINOv3 ViT in transformers' form (its model_type is {kind!r}): use one such as {EXAMPLE!r}."
        )
    statistics = {}
    if (folder / "preprocessor_config.json").is_file():
        # The satellite encoders were trained with a mean and std of their own.
        stated = _read_json(folder / "preprocessor_config.json", name)
        statistics = {key: stated[key] for key in ("image_mean", "image_std") if stated.get(key)}
    description = {"name_or_path": name, "revision": revision, **_licence(folder, name)}
    try:
        config = DINOv3ViTConfig.from_dict(raw)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise Omni123Error(f"config.json of {name!r} describes no DINOv3 ViT: {one_line(error)}") from error
    return DINOv3Source(config, {**description, "architecture": "DINOv3ViTModel"}, statistics, folder=folder)


def _read_json(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise Omni123Error(f"{name!r} has no {path.name}: give the folder that `save_pretrained` wrote, or a Hub id.")
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise Omni123Error(f"cannot read {path.name} of {name!r}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise Omni123Error(f"{path.name} of {name!r} is no JSON object: fetch it again.")
    return content


def _licence(folder: Path, name: str) -> dict[str, str | None]:
    """The licence that the folder's model card states, else DINOv3's own."""
    if not (folder / "README.md").is_file():
        return DINOV3_LICENCE
    try:
        card = metadata_load(folder / "README.md") or {}
    except (YAMLError, ValueError, OSError) as error:
        raise Omni123Error(f"cannot read the model card README.md of {name!r}: {one_line(error)}") from error
    licence = card.get("license_name") or card.get("license")
    return {"licence": licence, "licence_link": card.get("license_link")} if licence else DINOV3_LICENCE


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
