"""Where a checkpoint lies, whether it is whole, and which revision it is.

A checkpoint is one pipeline folder: `model_index.json` and one subfolder a component. Three kinds of names lead to it: a folder,
the bundled name of a checkpoint that ships with the package, and a Hub id. `provenance.json` beside the index holds the hash of
every model file, so that a damaged file is found before it is used, and where the weights came from.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from omni123_hf.errors import Omni123Error


INDEX_FILE = "model_index.json"
PROVENANCE_FILE = "provenance.json"
LINEAGE_FILE = "data_lineage.json"
UNKNOWN_LICENCE = "unknown"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
# What a component folder holds that changes the output; logs and cards beside it do not.
_MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")


def checkpoint_roots() -> list[Path]:
    """Folders that may hold bundled checkpoints: inside the package (wheel) and at the top of the repository (editable)."""
    package = Path(__file__).resolve().parents[1]
    roots = [package / "checkpoints"]
    if package.parent.name == "src":
        roots.append(package.parent.parent / "checkpoints")
    return roots


def bundled_checkpoints() -> dict[str, Path]:
    """Name to folder of every checkpoint that ships with this installation."""
    found: dict[str, Path] = {}
    for root in checkpoint_roots():
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if (folder / INDEX_FILE).is_file():
                    found.setdefault(folder.name, folder)
    return found


def resolve_checkpoint(name_or_path: str | Path) -> Path | None:
    """The folder that a name stands for, or None for a Hub id (`org/name`), which has to be downloaded first.

    Raises `Omni123Error` for a name that is none of the three.
    """
    name = str(name_or_path)
    # Not Path.expanduser, which raises for a home folder that does not exist.
    path = Path(os.path.expanduser(name))
    if (path / INDEX_FILE).is_file():
        return path
    bundled = bundled_checkpoints()
    if name in bundled:
        return bundled[name]
    if path.is_dir():
        raise Omni123Error(f"the folder {name!r} holds no {INDEX_FILE}; give the folder of a saved Omni123 pipeline")
    if isinstance(name_or_path, str) and _HUB_ID.match(name) and not name.endswith(".json"):
        return None
    known = ", ".join(sorted(bundled)) or "none in this installation"
    raise Omni123Error(
        f"unknown checkpoint {name!r}; give a bundled name ({known}), the folder of a saved pipeline, or a Hub id 'org/name'"
    )


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json` as a dict. Raises `Omni123Error` when it cannot be read."""
    return _read_json(folder / INDEX_FILE)


def component_names(folder: Path) -> list[str]:
    """The components that the index declares and does not leave empty, in its order."""
    return [
        name
        for name, value in read_index(folder).items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and value[0] is not None
    ]


def check_checkpoint(folder: Path, verify_hashes: bool = True) -> None:
    """Raise one clear `Omni123Error` when a checkpoint folder is incomplete or damaged.

    Looks for every component's folder and configuration, for the length every safetensors header promises and, with
    `verify_hashes`, for the SHA-256 of each file that `provenance.json` lists.
    """
    for name in component_names(folder):
        component = folder / name
        if not component.is_dir():
            raise Omni123Error(
                f"the checkpoint {folder.name!r} lacks the component folder {name!r}; copy or download it again"
            )
        is_tokenizer = (component / "tokenizer_config.json").is_file()
        if not is_tokenizer and not (component / "config.json").is_file():
            raise Omni123Error(f"the checkpoint {folder.name!r} lacks {name}/config.json; copy or download it again")
        for config in sorted(component.glob("*.json")):
            _read_json(config)
        weights = sorted(component.glob("*.safetensors"))
        if not is_tokenizer and not weights:
            raise Omni123Error(
                f"the checkpoint {folder.name!r} has no safetensors file in {name}/; copy or download it again"
            )
        for file in weights:
            safetensors_header(file)
    listed = provenance(folder).get("files", {})
    if verify_hashes and listed:
        for relative, expected in listed.items():
            file = folder / relative
            if not file.is_file():
                raise Omni123Error(f"the checkpoint {folder.name!r} lacks {relative}; copy or download it again")
            if _sha256(file) != expected:
                raise Omni123Error(
                    f"{relative} of the checkpoint {folder.name!r} is damaged or was changed "
                    f"(its SHA-256 is not the one in {PROVENANCE_FILE}); copy or download it again"
                )


def trained_tasks(folder: Path) -> set[str] | None:
    """Rows of the task table that the backbone was trained on, by the recipes beside it; None where none is kept."""
    tasks: set[str] = set()
    for options in _backbone_options(folder):
        tasks |= _recipe_tasks(options)
    return tasks or None


def trained_image_count(folder: Path, task: str) -> int | None:
    """The most images (N of Table 7) that a recipe beside the backbone trained a multi-view task on; None where none did."""
    # Late: other readers of this module must answer without loading torch.
    from omni123_hf.modeling.tasks import DEFAULT_NUM_IMAGES

    counts: list[int] = []
    for options in _backbone_options(folder):
        if task in _recipe_tasks(options):
            # One number, or several that training drew from.
            named = options.get("num_images", DEFAULT_NUM_IMAGES)
            counts += [int(count) for count in (named if isinstance(named, list) else [named])]
    return max(counts, default=None)


def _backbone_options(folder: Path) -> list[dict[str, Any]]:
    return [_read_json(file).get("options", {}) for file in sorted((folder / "recipes").glob("omni123*.json"))]


def _recipe_tasks(options: dict[str, Any]) -> set[str]:
    tasks = set(options.get("tasks") or {})
    for line in (options.get("mixture") or {}).values():
        named = line["tasks"]
        tasks.update([named] if isinstance(named, str) else named)
    return tasks


def licences(folder: Path) -> dict[str, Any]:
    """Under what a checkpoint and the data it was trained on are licensed, by `provenance.json` and `data_lineage.json`.

    `checkpoint`: a licence. `training_data`: the licences of its sources, in order. "unknown" where nothing is kept.
    `attributions`: the file that names every source, where there is one.
    """
    found: dict[str, Any] = {
        "checkpoint": str(provenance(folder).get("licence", UNKNOWN_LICENCE)),
        "training_data": [UNKNOWN_LICENCE],
    }
    lineage = folder / LINEAGE_FILE
    if lineage.is_file():
        sources = _read_json(lineage).get("sources") or []
        found["training_data"] = sorted({str(source.get("licence", UNKNOWN_LICENCE)) for source in sources})
        found["attributions"] = f"{LINEAGE_FILE} of the checkpoint"
    return found


def safetensors_header(file: Path) -> dict[str, Any]:
    """Header of a safetensors file: tensor name to `{"dtype", "shape", "data_offsets"}`, without reading the tensors.

    Raises `Omni123Error` when the header is unreadable or the file is shorter or longer than the header says.
    """
    broken = f"{file.parent.name}/{file.name} is corrupt or truncated; copy or download the checkpoint again"
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise Omni123Error(broken)
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise Omni123Error(broken) from error
    if not isinstance(header, dict):
        raise Omni123Error(broken)
    header.pop("__metadata__", None)
    try:
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except (KeyError, TypeError, IndexError) as error:
        raise Omni123Error(broken) from error
    if size != 8 + length + end:
        raise Omni123Error(broken)
    return header


def provenance(folder: Path) -> dict[str, Any]:
    """Content of `provenance.json`, or an empty dict where a checkpoint has none."""
    file = folder / PROVENANCE_FILE
    return _read_json(file) if file.is_file() else {}


def write_provenance(folder: Path, **facts: Any) -> dict[str, Any]:
    """Write `provenance.json`: the hash of every model file, the revision, and `facts` (data hash, code revision, recipes)."""
    files = file_hashes(folder)
    content = {**facts, "revision": _revision(files), "files": files}
    temporary = folder / (PROVENANCE_FILE + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / PROVENANCE_FILE)
    return content


def checkpoint_revision(folder: Path) -> str:
    """Twelve hex digits that name the exact content of a checkpoint: from `provenance.json`, otherwise hashed now."""
    return provenance(folder).get("revision") or _revision(file_hashes(folder))


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the index and of every model file of the declared components, by relative path."""
    files = [folder / INDEX_FILE]
    for name in component_names(folder):
        files += [
            file for file in sorted((folder / name).rglob("*")) if file.is_file() and file.suffix in _MODEL_SUFFIXES
        ]
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in files}


def _revision(files: dict[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Omni123Error(
            f"cannot read {file.parent.name}/{file.name} as JSON; copy or download the checkpoint again"
        ) from error
    if not isinstance(content, dict):
        raise Omni123Error(
            f"{file.parent.name}/{file.name} holds no JSON object; copy or download the checkpoint again"
        )
    return content
