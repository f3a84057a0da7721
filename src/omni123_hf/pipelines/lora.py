"""Adapters in a pipeline: load, weigh, switch, merge and remove them (names as in diffusers, where it has them).

```python
pipeline.load_lora_weights("runs/gears", adapter_name="gears")
pipeline.set_lora_scale(0.7)
pipeline.unload_lora_weights()  # the base again, bit for bit
```

The transformer stays the object that it was: its projections are wrapped in place and put back when the last adapter goes.
"""

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.fingerprint import weights_fingerprint
from omni123_hf.pipelines.lora_folder import (
    CONFIG_FILE,
    HUB_FILES,
    WEIGHTS_FILE,
    AdapterFolder,
    check_sizes,
    is_hub_id,
    read_adapter,
    write_adapter_provenance,
)
from omni123_hf.pipelines.registry import safetensors_header


logger = logging.getLogger(__name__)
DEFAULT_NAME = "default"


@dataclass
class LoadedAdapter:
    """An adapter in the pipeline: where it came from and how strongly it counts when it is active."""

    source: AdapterFolder
    scale: float = 1.0

    @property
    def trains_modules(self) -> bool:
        """Whether whole modules (heads) come with it: these cannot be weighed, nor added to another adapter's."""
        return bool(self.source.config.get("modules_to_save"))


class LoraLoaderMixin:
    """What `Omni123PipelineBase` offers for adapters of its transformer. Not safe while a call is running."""

    transformer: Any
    revision: str | None
    _lora: Any = None
    _lora_adapters: dict[str, LoadedAdapter] | None = None
    _lora_fingerprint: str | None = None
    _lora_before_fusing: dict[nn.Module, torch.Tensor] | None = None

    def load_lora_weights(
        self,
        pretrained_model_name_or_path: str | os.PathLike,
        adapter_name: str | None = None,
        scale: float = 1.0,
        allow_other_base: bool = False,
        **hub: Any,
    ) -> None:
        """Loads an adapter from a folder or a Hub id and makes it the active one.

        adapter_name: under which it is kept beside others; "default" when left out. scale: 0 is the base, 1 the adapter as
        trained. `hub` as in `from_pretrained` (`revision`, `cache_dir`, `token`, `local_files_only`, `force_download`).
        Raises `Omni123Error` without peft, for an adapter that is missing or damaged, for one of a base of other sizes, and,
        unless `allow_other_base`, for one that was trained on other weights.
        """
        peft = import_peft()
        adapters = self._adapters_to_change()
        name = adapter_name or DEFAULT_NAME
        check_scale(scale)
        if not name.replace("_", "").replace("-", "").isalnum():
            raise Omni123Error(f"the adapter name {name!r} must be letters, digits, '-' and '_'")
        if name in adapters:
            raise Omni123Error(f"there is an adapter {name!r} already; give another adapter_name, or unload it first")
        if self._lora is None and hasattr(self.transformer, "peft_config"):
            raise Omni123Error("the transformer carries adapters that were loaded elsewhere; unload them there first")
        adapter = self._find_adapter(pretrained_model_name_or_path, hub)
        check_sizes(adapter, self.transformer)
        loaded = LoadedAdapter(adapter, scale)
        self._check_base(adapter, allow_other_base)
        self._check_weighing({**adapters, name: loaded}, [name])
        try:
            self._load_into_transformer(peft, adapter, name)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            # Everything that the libraries raise for files which are whole but hold something else.
            if self._lora is None:
                remove_layers(self.transformer)
            elif name in self._lora.peft_config:
                self._lora.delete_adapter(name)
            line = " ".join(str(error).split())[:200]
            raise Omni123Error(f"cannot load the adapter {adapter.name!r}: {type(error).__name__}: {line}") from error
        adapters[name] = loaded
        self._lora_adapters = adapters
        self.set_adapters(name)

    def _find_adapter(self, place: str | os.PathLike, hub: dict[str, Any]) -> AdapterFolder:
        from omni123_hf.pipelines.pipeline_base import HUB_ARGUMENTS

        name = os.fspath(place)
        unknown = sorted(set(hub) - set(HUB_ARGUMENTS))
        if unknown:
            raise Omni123Error(
                f"load_lora_weights does not take {unknown[0]!r}; it takes adapter_name, scale, allow_other_base, "
                f"{', '.join(HUB_ARGUMENTS)}"
            )
        folder = Path(os.path.expanduser(name))
        if folder.is_dir():
            return read_adapter(folder, name)
        if not is_hub_id(name):
            raise Omni123Error(f"no adapter {name!r}: it is neither a folder nor a Hub id (org/name)")
        return read_adapter(Path(self.download(name, allow_patterns=list(HUB_FILES), **hub)), name)  # type: ignore[attr-defined]

    def _check_base(self, adapter: AdapterFolder, allow_other_base: bool) -> None:
        base = adapter.base
        if not base:
            logger.warning(
                "the adapter %r does not say which base it was trained on; only sizes were compared", adapter.name
            )
            return
        if self.revision is not None and self.revision == base.get("revision"):
            return
        if self._lora_fingerprint is None:
            # Wrapped projections have other names, so this is taken before the first adapter goes in.
            self._lora_fingerprint = weights_fingerprint(self.transformer)
        if self._lora_fingerprint == base.get("fingerprint"):
            return
        message = (
            f"the adapter {adapter.name!r} was trained on {base.get('name')} (revision {base.get('revision')}), and the weights "
            f"here are others (revision {self.revision})"
        )
        if not allow_other_base:
            raise Omni123Error(f"{message}; load it into that base, or pass allow_other_base=True")
        logger.warning("%s", message)

    def _load_into_transformer(self, peft: Any, adapter: AdapterFolder, name: str) -> None:
        device = str(self.transformer.device)
        options: dict[str, Any] = {"adapter_name": name, "torch_device": device, "autocast_adapter_dtype": False}
        with warnings.catch_warnings():
            # Its warning about missing keys is our error below.
            warnings.simplefilter("ignore")
            if self._lora is None:
                config = peft.PeftConfig.from_pretrained(str(adapter.folder))
                config.inference_mode = True
                # Its own `name_or_path` is where this copy of the base happens to lie.
                model = peft.PeftModel(self.transformer, config, name, autocast_adapter_dtype=False)
            else:
                model = self._lora
            model.load_adapter(str(adapter.folder), **options)
        # peft passes over tensors that have no place, and its list of missing ones mixes adapters up by their names.
        expected = set(peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
        wrong = sorted(expected ^ set(safetensors_header(adapter.folder / WEIGHTS_FILE)))
        if wrong:
            raise ValueError(f"{len(wrong)} tensors do not fit, for example {wrong[0]}")
        self._lora = model
        self.transformer.requires_grad_(False)
        self.transformer.eval()

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Makes these adapters the active ones; several add up. adapter_weights: scales, one for all or one each; None keeps
        those that they have."""
        adapters = self._adapters_to_change()
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if not names or len(set(names)) != len(names):
            raise Omni123Error(f"name each adapter once; got {names}")
        for name in names:
            require_adapter(adapters, name)
        if adapter_weights is not None:
            weights = (
                [adapter_weights] * len(names) if isinstance(adapter_weights, int | float) else list(adapter_weights)
            )
            if len(weights) != len(names):
                raise Omni123Error(f"{len(names)} adapters and {len(weights)} weights; give one each, or one for all")
        else:
            weights = [adapters[name].scale for name in names]
        for weight in weights:
            check_scale(weight)
        changed = {**adapters}
        for name, weight in zip(names, weights, strict=True):
            changed[name] = LoadedAdapter(adapters[name].source, float(weight))
        self._check_weighing(changed, names)
        self._lora_adapters = changed
        self._lora.base_model.set_adapter(names, inference_mode=True)
        for layer in lora_layers(self.transformer):
            for name in names:
                layer.set_scale(name, changed[name].scale)

    def set_lora_scale(self, scale: float, adapter_name: str | None = None) -> None:
        """The strength of one adapter, or of all active ones: 0 is the base, 1 the adapter as trained."""
        active = self.get_active_adapters()
        names = active if adapter_name is None else [adapter_name]
        adapters = self._adapters_to_change()
        for name in names:
            require_adapter(adapters, name)
        if not names:
            raise Omni123Error("no adapter is loaded; call load_lora_weights first")
        if adapter_name is None or adapter_name in active:
            weights = [scale if name in names else adapters[name].scale for name in active]
            self.set_adapters(active, weights)
        else:
            check_scale(scale)
            self._check_weighing(
                {**adapters, adapter_name: LoadedAdapter(adapters[adapter_name].source, scale)}, names
            )
            adapters[adapter_name].scale = float(scale)

    def get_active_adapters(self) -> list[str]:
        """Names of the adapters that count at present."""
        return [] if self._lora is None else list(self._lora.base_model.active_adapters)

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Component to the names of its adapters, as in diffusers."""
        return {"transformer": list(self._lora_adapters)} if self._lora_adapters else {}

    def describe_adapters(self) -> list[dict[str, Any]]:
        """Name, source, revision and scale of every active adapter, as plain JSON for a record."""
        adapters = self._lora_adapters or {}
        return [
            {
                "name": name,
                "source": adapters[name].source.name,
                "revision": adapters[name].source.revision,
                "scale": adapters[name].scale,
            }
            for name in self.get_active_adapters()
        ]

    def disable_lora(self) -> None:
        """The base as if no adapter were there, until `enable_lora`."""
        self._adapters_to_change()
        self._require_lora().base_model.disable_adapter_layers()

    def enable_lora(self) -> None:
        self._adapters_to_change()
        self._require_lora().base_model.enable_adapter_layers()
        self.transformer.requires_grad_(False)

    def fuse_lora(self, adapter_names: Sequence[str] | None = None) -> None:
        """Adds the active adapters (or those named) to the weights, at their scales: no cost in generation.

        `unfuse_lora` takes it back, bit for bit, from a copy of the changed weights kept on the CPU. After it,
        `unload_lora_weights` leaves the merged weights, which `save_pretrained` then writes as a checkpoint of their own.
        """
        adapters = self._adapters_to_change()
        names = self.get_active_adapters() if adapter_names is None else list(adapter_names)
        if not names:
            raise Omni123Error("no adapter is loaded; call load_lora_weights first")
        for name in names:
            require_adapter(adapters, name)
        if any(layer.disable_adapters for layer in lora_layers(self.transformer)):
            raise Omni123Error("the adapters are switched off; call enable_lora() first")
        self.set_adapters(names)
        layers = lora_layers(self.transformer)
        self._lora_before_fusing = {
            layer: layer.get_base_layer().weight.detach().to("cpu", copy=True) for layer in layers
        }
        try:
            self._lora.base_model.merge_adapter(names, safe_merge=True)
        except ValueError as error:
            self.unfuse_lora()
            raise Omni123Error(f"the adapters cannot be merged: {error}") from error

    @torch.no_grad()
    def unfuse_lora(self) -> None:
        """Takes `fuse_lora` back: the base weights as they were, with the adapters beside them."""
        if self._lora_before_fusing is None:
            raise Omni123Error("nothing is fused; call fuse_lora first")
        self._lora.base_model.unmerge_adapter()
        for layer, weight in self._lora_before_fusing.items():
            # Subtracting again would leave rounding behind.
            layer.get_base_layer().weight.copy_(weight)  # type: ignore[operator]
        self._lora_before_fusing = None

    def unload_lora_weights(self) -> None:
        """Removes all adapters. The transformer is the base again, bit for bit; after `fuse_lora` it keeps the merged weights."""
        self._require_lora()
        fused = self._lora_before_fusing is not None
        names = "+".join(f"{entry['revision']}x{entry['scale']:g}" for entry in self.describe_adapters())
        remove_layers(self.transformer, keep_heads=fused)
        self.transformer.requires_grad_(False)
        self._lora = self._lora_adapters = self._lora_before_fusing = None
        if fused:
            # Other weights than those that the revision stands for.
            self.revision = None if self.revision is None else f"{self.revision}+{names}"
            self._lora_fingerprint = None

    def save_lora_weights(self, save_directory: str | os.PathLike, adapter_name: str | None = None) -> None:
        """Writes one adapter as a folder that `load_lora_weights` and PEFT read; its lineage goes with it, its scale does not.

        adapter_name: may be left out when there is one. Raises `Omni123Error` for a folder that holds something else.
        """
        adapters = self._lora_adapters or {}
        if adapter_name is None and len(adapters) != 1:
            raise Omni123Error(f"which adapter? There are {len(adapters)}; give adapter_name")
        name = adapter_name or next(iter(adapters))
        require_adapter(adapters, name)
        out = Path(save_directory)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise Omni123Error(f"{str(out)!r} exists and is not an empty folder; give another one")
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".omni123-", dir=out.parent))
        try:
            config = self._lora.peft_config[name]
            config.base_model_name_or_path = adapters[name].source.config.get("base_model_name_or_path")
            self._lora.save_pretrained(str(staging), selected_adapters=[name], save_embedding_layers=False)
            # peft puts all but "default" into a folder below.
            written = staging / name if (staging / name).is_dir() else staging
            finished = staging / "finished"
            finished.mkdir()
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.move(written / file, finished / file)
            if adapters[name].source.provenance:
                write_adapter_provenance(finished, adapters[name].source.provenance)
            if out.exists():
                out.rmdir()
            finished.replace(out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers; refused while adapters are loaded, because the folder would hold neither the base nor the sum."""
        if hasattr(self.transformer, "peft_config"):
            raise Omni123Error(
                "the pipeline carries adapters: call unload_lora_weights() to save the base, fuse_lora() and then "
                "unload_lora_weights() to save the merged weights, or save_lora_weights(folder) to save an adapter"
            )
        return super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def _require_lora(self) -> Any:
        if self._lora is None:
            raise Omni123Error("no adapter is loaded; call load_lora_weights first")
        return self._lora

    def _adapters_to_change(self) -> dict[str, LoadedAdapter]:
        if self._lora_before_fusing is not None:
            raise Omni123Error("the adapters are fused; call unfuse_lora() first")
        return self._lora_adapters or {}

    def _check_weighing(self, adapters: dict[str, LoadedAdapter], names: Sequence[str]) -> None:
        whole = [name for name in names if adapters[name].trains_modules]
        if whole and adapters[whole[0]].scale != 1:
            raise Omni123Error(f"the adapter {whole[0]!r} brings whole heads, which cannot be weighed; use scale 1")
        if len(whole) > 1:
            raise Omni123Error(f"the adapters {' and '.join(whole)} both bring whole heads; activate one of them")


def import_peft() -> Any:
    """Raises `Omni123Error` when peft is not installed."""
    try:
        import peft
    except ModuleNotFoundError as error:
        raise Omni123Error("adapters need peft; install it with: pip install 'omni123-hf[lora]'") from error
    return peft


def lora_layers(model: nn.Module) -> list[Any]:
    """The wrapped projections of a model."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def remove_layers(model: nn.Module, keep_heads: bool = False) -> None:
    """Puts the projections of a model back, whatever state they are in; with `keep_heads` those heads stay that are active.

    Not PEFT's own `unload`, which leaves trained heads in the place of the base's.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            original = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            active = module.active_adapters if keep_heads else []
            original = module.modules_to_save[active[0]] if active else module.original_module
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, original)
    if hasattr(model, "peft_config"):
        del model.peft_config


def require_adapter(adapters: dict[str, LoadedAdapter], name: str) -> None:
    if name not in adapters:
        raise Omni123Error(f"there is no adapter {name!r}; loaded: {', '.join(adapters) or 'none'}")


def check_scale(scale: float) -> None:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < float("inf"):
        raise Omni123Error(f"the scale of an adapter must be a finite number of at least 0; got {scale!r}")
