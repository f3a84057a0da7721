"""What every Omni123 pipeline shares: loading, reading a prompt, and turning codes into pictures and meshes."""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import psutil
import torch
import trimesh
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import CLIPTextModel, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Model

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.extraction import check_mode, extract_surface_with_report
from omni123_hf.geometry.health import mesh_health
from omni123_hf.geometry.postprocess import FinishSettings, finish_mesh
from omni123_hf.modeling.decoder_weights_omni123 import DECODE_WEIGHTS
from omni123_hf.modeling.decoding import decode_pictures, shape_field
from omni123_hf.modeling.generation_fast_omni123 import release_decoder
from omni123_hf.modeling.generation_omni123 import ENGINES, GenerationProgress

# diffusers finds a third-party component class only in a module that is imported already.
from omni123_hf.modeling.modeling_image_tokenizer import Omni123ImageTokenizer
from omni123_hf.modeling.modeling_image_vae import Omni123ImageVAE
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.modeling.tasks import Task, generation_plan
from omni123_hf.pipelines.image_input import encode_pictures
from omni123_hf.pipelines.lora import LoraLoaderMixin
from omni123_hf.pipelines.registry import (
    INDEX_FILE,
    check_checkpoint,
    checkpoint_revision,
    component_names,
    licences,
    read_index,
    resolve_checkpoint,
    trained_tasks,
)
from omni123_hf.pipelines.sampling import Drops, Sampling, Schedule, check_samples, check_settings


logger = logging.getLogger(__name__)

PAPER_GUIDANCE_SCALE = 5.0
DEFAULT_RESOLUTION = 96
DEFAULT_EXTRACTION = "safe"
MIN_RESOLUTION = 16
# Peak host memory of the dense grid, its coordinates, marching cubes and the mesh, per grid point. Measured, rounded up.
BYTES_PER_GRID_POINT = 64
QUERY_CHUNK = 32768
# (pipeline, step, total, facts) after every token; facts: modality, segment, codes, those of the segment so far, and given,
# the codes (rows, n) of each segment that was there already.
StepCallback = Callable[[Any, int, int, dict[str, Any]], object]
HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


@dataclass
class TextConditioning:
    """A prompt as the backbone reads it: text_embeds (B, Lc, Dc) and, where the checkpoint has a second text encoder,
    text_embeds_2 (B, Lq, Dq) with text_attention_mask_2 (B, Lq)."""

    text_embeds: torch.Tensor
    text_embeds_2: torch.Tensor | None = None
    text_attention_mask_2: torch.Tensor | None = None


class Omni123PipelineBase(LoraLoaderMixin, DiffusionPipeline):
    """A pipeline's `__init__` names the components of its task; those in `_optional_components` may be None.

    `task` is the row of `modeling.tasks` that it generates.
    """

    # In the order of most calls; components that a pipeline lacks are passed over.
    model_cpu_offload_seq: Any = (
        "text_encoder->text_encoder_2->transformer->image_tokenizer->image_vae->shape_tokenizer"
    )
    _decoding: tuple[Any, Any] = ("auto", "model")

    task: str
    tokenizer: PreTrainedTokenizerBase
    text_encoder: CLIPTextModel
    tokenizer_2: PreTrainedTokenizerBase
    text_encoder_2: Qwen3Model
    transformer: Omni123ForConditionalGeneration
    image_vae: Omni123ImageVAE
    image_tokenizer: Omni123ImageTokenizer
    shape_tokenizer: Omni123ShapeTokenizer

    def set_up(self, default_guidance_scale: float, default_guidance_schedule: str, **components: Any) -> None:
        """Registers components and the checkpoint's own guidance, which its index keeps; the paper's scale is 5.0 (§4.4)."""
        self.register_to_config(
            default_guidance_scale=default_guidance_scale, default_guidance_schedule=default_guidance_schedule
        )
        self.register_modules(**components)
        for component in components.values():
            if isinstance(component, torch.nn.Module):
                component.eval()
        # What the checkpoint says of itself; None for a pipeline that was put together from components.
        self.revision: str | None = None
        self.licences: dict[str, Any] | None = None
        self.trained_tasks: set[str] | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        dtype: torch.dtype = torch.float32,
        verify_hashes: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load from a folder, from a bundled name such as `"omni123-mini"`, or from a Hub id.

        Weights run in float32 unless `dtype` says otherwise, whatever precision they are stored in. `kwargs` are components that
        replace the stored ones, and for a Hub id `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`.
        Parts of the checkpoint that this pipeline's task does not use are left out.
        Raises `Omni123Error` for an unknown name or argument, for a checkpoint that is incomplete or damaged, and for one
        that lacks what this pipeline needs.
        """
        hub = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
        components, _ = cls._get_signature_keys(cls)
        unknown = sorted(set(kwargs) - set(components))
        if unknown:
            raise Omni123Error(
                f"from_pretrained does not take {unknown[0]!r}; it takes dtype, verify_hashes, {', '.join(HUB_ARGUMENTS)} and "
                "components; move the pipeline with .to(device)"
            )
        name = os.fspath(pretrained_model_name_or_path)
        folder = resolve_checkpoint(name)
        if folder is None:
            folder = Path(cls.download(name, **hub))
        elif hub.get("revision") is not None:
            raise Omni123Error(
                f"{name!r} is a checkpoint on this machine, which has one revision; leave out revision="
            )
        check_checkpoint(folder, verify_hashes=verify_hashes)
        wanted = set(components) - set(kwargs)
        missing = sorted(wanted - set(cls._optional_components) - set(component_names(folder)))
        if missing:
            raise Omni123Error(
                f"{cls.__name__} needs {', '.join(missing)}, which the checkpoint {name!r} does not have; load it as "
                f"{read_index(folder).get('_class_name')}"
            )
        try:
            models = _load_models(folder, dtype, wanted)
            pipeline = super().from_pretrained(str(folder), dtype=dtype, **models, **kwargs)
        except Omni123Error:
            raise
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            # Everything that the libraries raise for files which are whole but do not fit together.
            raise Omni123Error(
                f"cannot load the checkpoint {name!r}: {type(error).__name__}: {_one_line(error)}"
            ) from error
        pipeline.revision, pipeline.licences = checkpoint_revision(folder), licences(folder)
        pipeline.trained_tasks = known = trained_tasks(folder)
        if known is not None and cls.task not in known:
            logger.warning(
                "%s was not trained on %s: what this pipeline makes with it means nothing (trained: %s)",
                name, cls.task, ", ".join(sorted(known)),
            )  # fmt: skip
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """A pipeline of this class that shares the components of another one, and what is known of their checkpoint."""
        # diffusers would turn the shared components to float32, in the other pipeline as well.
        kwargs.setdefault("dtype", pipeline.dtype)
        made = super().from_pipe(pipeline, **kwargs)
        for name in ("revision", "licences", "trained_tasks"):
            setattr(made, name, getattr(pipeline, name, None))
        return made

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """As in diffusers, and off where `diffusers.utils.logging.disable_progress_bar()` was called."""
        if not diffusers_logging.is_progress_bar_enabled():
            return tqdm(iterable, total=total, disable=True)
        return super().progress_bar(iterable, total)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """As in diffusers, without its warning about parts of the checkpoint that other tasks use."""
        components, settings = cls._get_signature_keys(cls)
        known = {*components, *settings}
        kept = {key: value for key, value in config_dict.items() if key.startswith("_") or key in known}
        return super().extract_init_dict(kept, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a whole checkpoint from the Hub; returns its folder.

        diffusers' own `download` refuses component classes of other libraries, so this one takes a plain snapshot.
        """
        try:
            return snapshot_download(pretrained_model_name, **kwargs)
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise Omni123Error(f"no checkpoint {pretrained_model_name!r} on the Hub, or no access to it") from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise Omni123Error(
                f"cannot download {pretrained_model_name!r} from the Hub: {_one_line(error)}"
            ) from error

    def check_prompts(self, prompt: str | list[str]) -> list[str]:
        """The prompts as a list. Raises `Omni123Error` for an empty one and for one that is too long for its encoder."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, (list, tuple)) or not prompts or not all(isinstance(text, str) for text in prompts):
            raise Omni123Error("the prompt must be a text or a non-empty list of texts")
        self._check_text_components()
        # With two encoders CLIP may cut: the second reads the whole prompt.
        tokenizer = self.tokenizer if self.tokenizer_2 is None else self.tokenizer_2
        limit = int(tokenizer.model_max_length)
        for text in prompts:
            if not text.strip():
                raise Omni123Error("the prompt is empty; describe the object, for example 'a round wooden table'")
            length = len(tokenizer(text, verbose=False)["input_ids"])
            if length > limit:
                raise Omni123Error(
                    f"the prompt has {length} tokens and the text encoder takes {limit}; shorten it to about "
                    f"{max(1, len(text.split()) * limit // length)} words"
                )
        return list(prompts)

    def encode_prompt(self, prompts: list[str]) -> TextConditioning:
        """Encode B texts. CLIP cuts at its length and keeps all positions; Qwen3, if there is one, masks its padding."""
        self._check_text_components()
        device = self._execution_device
        options: Any = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer(prompts, **options).to(device)["input_ids"]
        text = TextConditioning(self.text_encoder(input_ids=ids).last_hidden_state)
        if self.text_encoder_2 is not None:
            second = self.tokenizer_2(prompts, **options).to(device)
            mask = second["attention_mask"]
            text.text_embeds_2 = self.text_encoder_2(
                input_ids=second["input_ids"], attention_mask=mask
            ).last_hidden_state
            text.text_attention_mask_2 = mask
        return text

    def _check_text_components(self) -> None:
        names = ["tokenizer", "text_encoder"]
        if self.transformer.config.text_embed_dim_2:
            names += ["tokenizer_2", "text_encoder_2"]
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise Omni123Error(
                f"this checkpoint has no {' and no '.join(missing)} to read a prompt with; convert it again with "
                "--text-encoder, load it with these components, or pass prompt_embeds"
            )

    def prepare_sampling(
        self,
        *,
        guidance_scale: float | None = None,
        guidance_schedule: Schedule | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "tokens",
        resolution: int | None = None,
        extraction: str = DEFAULT_EXTRACTION,
        num_samples: int = 1,
        guidance_drops: Drops = "text",
    ) -> Sampling:
        """The settings of a call, checked before any work; the checkpoint's own guidance where none is given."""
        self.check_devices()
        scale, schedule = self.guidance(guidance_scale, guidance_schedule)
        check_settings(scale, schedule, temperature, top_k, top_p, seed, generator, output_type, guidance_drops)
        check_samples(num_samples)
        check_mode(extraction)
        if output_type == "trimesh" and resolution is not None:
            check_resolution(resolution)
        if seed is not None:
            generator = torch.Generator(self._execution_device).manual_seed(seed)
        return Sampling(scale, schedule, guidance_drops, temperature, top_k, top_p, generator)

    def check_devices(self) -> None:
        """Raises `Omni123Error` when the components compute on different devices."""
        places: dict[str, list[str]] = {}
        for name, component in self.components.items():
            if isinstance(component, torch.nn.Module):
                hooked = next((part for part in component.modules() if hasattr(part, "_hf_hook")), None)
                device = self._execution_device if hooked is not None else component.device
                places.setdefault(str(device), []).append(name)
        if len(places) > 1:
            parts = "; ".join(f"{', '.join(names)} on {device}" for device, names in places.items())
            raise Omni123Error(
                f"the components of this pipeline are on different devices ({parts}), perhaps because a pipeline that shares "
                "some was moved; move this one with .to(device), or load the other with from_pretrained"
            )

    def encode_images(self, images: Any) -> torch.Tensor:
        """Pictures (`image_input.Picture`, one or a list) to image tokens (B, Li)."""
        return encode_pictures(images, self.image_vae, self.image_tokenizer)

    def match_prompts(self, prompt: str | list[str] | None, rows: int) -> list[str] | None:
        """One checked prompt for each of `rows` inputs; None where there is none. Raises `Omni123Error`."""
        if prompt is None:
            return None
        prompts = self.check_prompts(prompt)
        if len(prompts) == 1:
            prompts = prompts * rows
        if len(prompts) != rows:
            raise Omni123Error(
                f"there are {len(prompts)} prompts for {rows} inputs; give one for all, or one for each"
            )
        return prompts

    def null_conditioning(self, is_guided: bool) -> torch.Tensor | None:
        """Embeddings of the empty prompt (1, L, D), for checkpoints whose null condition it is."""
        if self.transformer.config.null_condition == "learned" or not is_guided:
            return None
        if self.text_encoder is None or self.tokenizer is None:
            raise Omni123Error(
                "guidance needs the empty prompt, and this checkpoint has no text encoder; pass negative_prompt_embeds or "
                "guidance_scale=1, or convert it again with --text-encoder"
            )
        return self.encode_prompt([""]).text_embeds

    def generate_codes(
        self,
        task: Task,
        text: TextConditioning | None,
        sampling: Sampling,
        given: dict[str, Any] | None = None,
        rows: int = 1,
        num_samples: int = 1,
        callback: StepCallback | None = None,
        favoured: dict[str, tuple[torch.Tensor, float]] | None = None,
        **conditions: Any,
    ) -> dict[str, torch.Tensor]:
        """Local codes (rows * num_samples, n) of every segment that the task samples; samples of one input follow one another.

        given: codes (rows, n) or view indices of segments that are there already. text None: no text at all; guidance then
        drops what is given, and a task that is given nothing is unguided. favoured: by sampled segment, codes (rows, n) and what is
        added to their logits, each at its own place. Runs as `set_decoding` says.
        """

        def report(progress: GenerationProgress) -> None:
            bar.update()
            if callback is None:
                return
            facts = {
                "modality": progress.modality,
                "segment": progress.segment,
                "codes": progress.codes,
                "given": given_codes,
            }
            callback(self, progress.done, progress.total, facts)

        settings = sampling.arguments()
        if text is None:
            settings["guidance_drops"] = "text_and_prefix"
            if not task.prefix:
                settings["guidance_scale"] = 1.0
        else:
            conditions |= {
                "text_embeds": text.text_embeds,
                "text_embeds_2": text.text_embeds_2,
                "text_attention_mask_2": text.text_attention_mask_2,
            }
        # One row a sample, as the callback's codes have it.
        given_codes = {
            name: value.repeat_interleave(num_samples, dim=0)
            if isinstance(value, torch.Tensor) and value.ndim
            else value
            for name, value in (given or {}).items()
        }
        plan = generation_plan(task, self.transformer.config, given or {})
        for name, (liked, bonus) in (favoured or {}).items():
            plan = [replace(step, favoured=liked, bonus=bonus) if step.name == name else step for step in plan]
        with self.progress_bar(total=sum(step.count for step in plan if step.action == "sample")) as bar:
            return self.transformer.generate_plan(
                plan,
                batch_size=rows,
                num_samples=num_samples,
                callback=report,
                engine=self._decoding[0],
                decode_weights=self._decoding[1],
                **conditions,
                **settings,
            )

    def source_preference(
        self, source: torch.Tensor, source_bias: float | None = None
    ) -> dict[str, tuple[torch.Tensor, float]]:
        """What `generate_codes` takes as `favoured` in an edit of shape tokens (rows, Ls): the source's code at each place.

        source_bias: added to its logit; the checkpoint's own (`transformer.config.edit_source_bias`) where None. Raises
        `Omni123Error` for one that is no finite number.
        """
        bias = self.transformer.config.edit_source_bias if source_bias is None else source_bias
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not math.isfinite(bias):
            raise Omni123Error(f"source_bias is {bias!r}: it must be a finite number; 0 is no bias")
        return {"shape": (source, float(bias))}

    def edit_guidance(self, scale: float | None = None) -> float | None:
        """Guidance of an edit: `scale`, or the checkpoint's own for edits; None where it has none, and then `guidance` knows."""
        return self.transformer.config.edit_guidance_scale if scale is None else scale

    def set_decoding(self, engine: str = "auto", weights: str = "model") -> None:
        """How codes are generated from now on, as `generate_plan` takes it.

        engine: "auto" (the default: fast where the transformer allows it, and a warning where not), "fast" or "plain". weights:
        "model", or "int8" and "int8_dynamic" of the fast engine (docs/performance.md). Raises `Omni123Error` for other names.
        """
        if engine not in ENGINES:
            raise Omni123Error(f"engine is {engine!r}: use one of {', '.join(ENGINES)}")
        if weights not in DECODE_WEIGHTS:
            raise Omni123Error(f"weights is {weights!r}: use one of {', '.join(DECODE_WEIGHTS)}")
        if weights != "model" and engine == "plain":
            raise Omni123Error(f"weights {weights!r} belong to the fast engine; leave engine out")
        self._decoding = (engine, weights)

    def release_decoder(self) -> None:
        """Frees what the fast engine holds beside the transformer: its copy of weights, and keys and values (docs/performance.md).
        The next generation makes it anew."""
        release_decoder(self.transformer)

    def guidance(self, scale: float | None, schedule: str | None) -> tuple[float, Any]:
        """Scale and schedule, the checkpoint's own where None."""
        return (
            float(self.config["default_guidance_scale"] if scale is None else scale),
            self.config["default_guidance_schedule"] if schedule is None else schedule,
        )

    def decode_images(self, image_tokens: torch.Tensor) -> list[Image.Image]:
        """Image tokens (B, Li) to RGB pictures, through the 1D tokenizer and the VAE."""
        pictures = decode_pictures(image_tokens, self.image_tokenizer, self.image_vae)
        return [Image.fromarray(picture) for picture in pictures]

    def decode_shapes(
        self,
        shape_tokens: torch.Tensor,
        resolution: int = DEFAULT_RESOLUTION,
        progress: Callable[[int, int], object] | None = None,
        extraction: str = DEFAULT_EXTRACTION,
        reports: list[dict[str, Any] | None] | None = None,
    ) -> tuple[list[trimesh.Trimesh | None], list[str | None]]:
        """Shape tokens (B, Ls) to closed meshes and, for each, the reason why there is none (None where there is one).

        `progress(done, total)` counts field evaluations over all shapes; the sparse modes of `extraction` end early.
        `reports` gets an `ExtractionReport.to_dict()` for each shape, None where there is no mesh.
        """
        meshes: list[trimesh.Trimesh | None] = []
        failures: list[str | None] = []
        facts: dict[str, Any] | None
        points = resolution**3
        for row, tokens in enumerate(shape_tokens):
            field = shape_field(tokens, self.shape_tokenizer)

            def report(done: int, total: int, row: int = row) -> None:
                if progress is not None:
                    progress(row * total + done, len(shape_tokens) * total)

            try:
                mesh, found = extract_surface_with_report(
                    field, resolution, chunk=min(QUERY_CHUNK, points), progress=report, mode=extraction
                )
                meshes.append(mesh)
                failures.append(None)
                facts = found.to_dict()
            except Omni123Error as error:
                # No surface, or none that is closed: reported for this shape, and the others of the batch go on.
                meshes.append(None)
                failures.append(_one_line(error))
                facts = None
            if reports is not None:
                reports.append(facts)
        return meshes, failures

    def decode_and_check_shapes(
        self,
        shape_tokens: torch.Tensor,
        resolution: int,
        progress: Callable[[int, int], object] | None,
        timings: dict[str, float],
        finish: FinishSettings | None = None,
        extraction: str = DEFAULT_EXTRACTION,
        reports: list[dict[str, Any] | None] | None = None,
    ) -> tuple[list[trimesh.Trimesh | None], list[str | None], list[dict[str, Any] | None]]:
        """`decode_shapes`, what `finish` asks for, and the health of each mesh, all timed."""
        with timed(timings, "shape_decoder"):
            meshes, failures = self.decode_shapes(shape_tokens, resolution, progress, extraction, reports)
        if finish is not None and not finish.changes_nothing:
            with timed(timings, "mesh_finish"):
                for row, mesh in enumerate(meshes):
                    try:
                        meshes[row] = None if mesh is None else finish_mesh(mesh, finish)
                    except Omni123Error as error:
                        # A face budget that this shape does not fit in: the others of the batch go on.
                        meshes[row], failures[row] = None, _one_line(error)
        with timed(timings, "mesh_health"):
            health = [None if mesh is None else mesh_health(mesh).to_dict() for mesh in meshes]
        return meshes, failures, health


@contextmanager
def timed(timings: dict[str, float], part: str) -> Iterator[None]:
    """Adds the seconds of the block to `timings`."""
    start = time.perf_counter()
    yield
    # Work on an accelerator is asynchronous; every part here ends by copying its result or by sampling, which waits for it.
    timings[part] = time.perf_counter() - start


def check_resolution(resolution: int) -> None:
    """Refuse an extraction grid that is too coarse to show a shape or that does not fit in the memory that is free now."""
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < MIN_RESOLUTION:
        raise Omni123Error(f"the resolution must be a whole number of at least {MIN_RESOLUTION}; got {resolution!r}")
    free = available_memory()
    need = resolution**3 * BYTES_PER_GRID_POINT
    if need > free:
        largest = math.floor(math.cbrt(free / BYTES_PER_GRID_POINT))
        raise Omni123Error(
            f"a resolution of {resolution} needs about {need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            f"use at most {largest}"
        )


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of host memory that can be used now, with the limit of the control group where there is one."""
    free = psutil.virtual_memory().available
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        # Files read or written lately (an installation, say) count as used, but are dropped as soon as memory is needed.
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(facts.get("inactive_file", 0)))
    except (OSError, ValueError):
        # No control group of version 2, or one without a limit ("max"): the machine's own figure stands.
        return free
    return max(free, 0)


def _load_models(folder: Path, dtype: torch.dtype, wanted: set[str]) -> dict[str, PreTrainedModel]:
    """Every model of a checkpoint that is `wanted`; tokenizers are left to diffusers.

    Not left to diffusers, because transformers fills a tensor that the file lacks with random numbers and only warns, and
    diffusers does not pass on which ones these were.
    """
    models: dict[str, PreTrainedModel] = {}
    for name in component_names(folder):
        module, class_name = read_index(folder)[name]
        if name not in wanted or not (folder / name / "config.json").is_file():
            continue
        # Third-party modules have to be loaded already: a checkpoint must not name code to import.
        library = sys.modules.get(module)
        model_class = getattr(library, class_name, None)
        if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
            raise Omni123Error(
                f"{INDEX_FILE} names the unknown class {module}.{class_name} for {name!r}; update omni123-hf"
            )
        loaded: Any = model_class.from_pretrained(folder / name, dtype=dtype, output_loading_info=True)
        model, report = loaded
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise Omni123Error(
                f"{name} lacks {len(missing)} tensor(s), for example {missing[0]}; the checkpoint is incomplete or was made "
                "by another version"
            )
        models[name] = model
    return models


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
