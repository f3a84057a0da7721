"""The folder of an adapter: what PEFT reads, and beside it where the adapter comes from and which base it is for.

| file | content |
|---|---|
| `adapter_model.safetensors`, `adapter_config.json` | the adapter, in PEFT's format |
| `provenance.json` | the base (name, revision, fingerprint), data lineage, licence, hashes of the files above |
| `README.md`, `images/` | the card |

A folder that PEFT wrote itself has no `provenance.json`; it loads, but nothing says whether the base is the right one.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from omni123_hf.errors import Omni123Error
from omni123_hf.pipelines.registry import PROVENANCE_FILE, safetensors_header


CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
HUB_FILES = (CONFIG_FILE, WEIGHTS_FILE, PROVENANCE_FILE)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>A|B)\.weight$")


@dataclass(frozen=True)
class AdapterFolder:
    """A checked adapter. `base` is what it says of its base, empty where it says nothing; `revision` names its content."""

    name: str
    folder: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    revision: str

    @property
    def base(self) -> dict[str, Any]:
        return dict(self.provenance.get("base", {}))


def is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.match(name)) and not Path(name).exists()


def read_adapter(folder: Path, name: str) -> AdapterFolder:
    """Raises `Omni123Error` for a folder without an adapter, for one that is damaged, and for adapters that are no LoRA."""
    if not (folder / CONFIG_FILE).is_file():
        raise Omni123Error(
            f"{name!r} holds no finished adapter (no {CONFIG_FILE}); give the folder that 'omni123 train lora' wrote"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise Omni123Error(f"the adapter {name!r} lacks {WEIGHTS_FILE}; copy or download it again")
    config, facts = read_json(folder / CONFIG_FILE, name), {}
    if config.get("peft_type") != "LORA":
        raise Omni123Error(f"{name!r} is an adapter of type {config.get('peft_type')}; only LORA can be loaded here")
    if (folder / PROVENANCE_FILE).is_file():
        facts = read_json(folder / PROVENANCE_FILE, name)
    safetensors_header(folder / WEIGHTS_FILE)
    hashes = {file: sha256(folder / file) for file in (CONFIG_FILE, WEIGHTS_FILE)}
    for file, expected in facts.get("files", {}).items():
        if hashes.get(file) != expected:
            raise Omni123Error(
                f"{file} of the adapter {name!r} is damaged or was changed (its SHA-256 is not the one in "
                f"{PROVENANCE_FILE}); copy or download it again"
            )
    return AdapterFolder(name, folder, config, facts, hashes[WEIGHTS_FILE][:12])


def check_sizes(adapter: AdapterFolder, model: nn.Module) -> None:
    """Raises `Omni123Error` unless every adapted projection is in the model and has the sizes that the adapter expects."""
    modules = dict(model.named_modules())
    found = False
    for key, tensor in safetensors_header(adapter.folder / WEIGHTS_FILE).items():
        match = _KEY.match(key)
        if match is None:
            continue
        found = True
        module = modules.get(match["module"])
        module = getattr(module, "base_layer", module)
        if not isinstance(module, nn.Linear):
            raise Omni123Error(
                f"the adapter {adapter.name!r} is for a base of other layers: this one has no projection {match['module']}; "
                f"load it into {adapter.base.get('name') or 'its own base'}"
            )
        place, expected = (1, module.in_features) if match["part"] == "A" else (0, module.out_features)
        if tensor["shape"][place] != expected:
            raise Omni123Error(
                f"the adapter {adapter.name!r} is for a base of other sizes: {match['module']} is {expected} wide here and "
                f"{tensor['shape'][place]} there; load it into {adapter.base.get('name') or 'its own base'}"
            )
    if not found:
        raise Omni123Error(f"the adapter {adapter.name!r} holds no LoRA weights of a backbone; give another one")


def write_adapter_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes `provenance.json` of a folder that PEFT has written: `facts` and the hashes of its files."""
    files = {file: sha256(folder / file) for file in (CONFIG_FILE, WEIGHTS_FILE)}
    content = {**facts, "revision": files[WEIGHTS_FILE][:12], "files": files}
    temporary = folder / (PROVENANCE_FILE + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / PROVENANCE_FILE)


def read_json(file: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Omni123Error(f"cannot read {file.name} of the adapter {name!r}; copy or download it again") from error
    if not isinstance(content, dict):
        raise Omni123Error(f"{file.name} of the adapter {name!r} holds no JSON object; copy or download it again")
    return content


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
