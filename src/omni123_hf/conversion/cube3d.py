"""A Cube 3D checkpoint (`shape_gpt`, `shape_tokenizer`) to a pipeline folder of this project's classes.

Everything is checked against the files' headers before a weight is read and before anything is written.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedModel

from omni123_hf.conversion.cube3d_card import LICENCE, lineage, model_card
from omni123_hf.conversion.cube3d_keys import EMBEDDER_NAMES, compare, gpt_key, tokenizer_key, unbiased_optional
from omni123_hf.conversion.cube3d_sizes import NUM_SPECIALS, CubeSettings, has_bias, read_configs
from omni123_hf.conversion.source_file import SourceFile
from omni123_hf.conversion.target_folder import check_sources_outside, check_target, staged
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.configuration_omni123 import Omni123Config
from omni123_hf.modeling.configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from omni123_hf.modeling.modeling_omni123 import Omni123ForConditionalGeneration
from omni123_hf.modeling.modeling_shape_tokenizer import Omni123ShapeTokenizer
from omni123_hf.pipelines import Omni123TextTo3DPipeline
from omni123_hf.pipelines.registry import write_provenance


GPT_FILE, TOKENIZER_FILE = "shape_gpt.safetensors", "shape_tokenizer.safetensors"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PUBLIC_TEXT_ENCODER = "openai/clip-vit-large-patch14"
# Cube 3D's (1 + g) cond - g uncond with g falling from 3 to 0 is our scale 4 falling to 1.
GUIDANCE_SCALE, GUIDANCE_SCHEDULE = 4.0, "linear_decay"
# Rebuilt below from more than one tensor of the source.
_TABLES = ("embed_tokens.weight", "shape_head.weight")


@dataclass(frozen=True)
class Conversion:
    """What was written. `unknown_settings` of the configuration file were not used."""

    folder: Path
    parameters: int
    unknown_settings: list[str]
    has_text_encoder: bool


def convert_cube3d(
    gpt: str,
    tokenizer: str,
    out: Path,
    config: Path | None = None,
    text_encoder: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Writes `out`: `transformer/`, `shape_tokenizer/`, an index, a card with licence and lineage, and hashes.

    `gpt` and `tokenizer` are safetensors files, or Hub ids `org/name[@revision][:file]`. `config` is Cube 3D's
    configuration as JSON: it gives RoPE's theta and the norms' epsilon, and must agree with the tensors. `text_encoder`, a
    folder or Hub id of a CLIP text model with its tokenizer, is copied into the folder. Weights keep the type they are
    stored in unless `dtype` names another. Raises `Omni123Error` for bad input, before anything is written.
    """
    if dtype is not None and dtype not in DTYPES:
        raise Omni123Error(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    target = check_target(out, overwrite)
    given = {"--gpt": gpt, "--tokenizer": tokenizer, "--config": config, "--text-encoder": text_encoder}
    check_sources_outside(target, given)
    settings = CubeSettings() if config is None else CubeSettings.read(config)
    files = {"gpt": SourceFile(gpt, GPT_FILE), "tokenizer": SourceFile(tokenizer, TOKENIZER_FILE)}
    # Once more, for a cache of the Hub may lie anywhere.
    check_sources_outside(target, {f"--{role}": file.path for role, file in files.items()})
    for file in files.values():
        file.check_types()
    gpt_config, tokenizer_config, unknown = read_configs(files["gpt"].shapes, files["tokenizer"].shapes, settings)
    zeros = check_gpt(files["gpt"], gpt_config, code_dim=tokenizer_config.code_dim)
    embedder = check_tokenizer(files["tokenizer"], tokenizer_config)
    text = {} if text_encoder is None else load_text_encoder(text_encoder, gpt_config.text_embed_dim)
    with staged(target) as folder:
        cast = None if dtype is None else DTYPES[dtype]
        shape_tokenizer = build_tokenizer(files["tokenizer"], tokenizer_config, embedder, cast)
        pipeline = Omni123TextTo3DPipeline(
            transformer=build_gpt(files["gpt"], gpt_config, shape_tokenizer, zeros, cast),
            shape_tokenizer=shape_tokenizer,
            default_guidance_scale=GUIDANCE_SCALE,
            default_guidance_schedule=GUIDANCE_SCHEDULE,
            **text,
        )
        pipeline.save_pretrained(folder)
        facts = lineage(files, gpt_config, tokenizer_config, config is not None, unknown, dtype, text_encoder)
        (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
        write_provenance(folder, licence=LICENCE, converted_from=facts)
        parameters = sum(part.num_parameters() for part in (pipeline.transformer, shape_tokenizer))
    return Conversion(out, parameters, unknown, text_encoder is not None)


def text_encoder_command(gpt: str, tokenizer: str, out: Path, config: Path | None, dtype: str | None) -> str:
    """The command that converts the same files again, with the text encoder of the public checkpoints."""
    parts = ["omni123", "convert", "cube3d", "--gpt", gpt, "--tokenizer", tokenizer, "--out", str(out)]
    parts += [] if config is None else ["--config", str(config)]
    parts += [] if dtype is None else ["--dtype", dtype]
    return shlex.join([*parts, "--text-encoder", PUBLIC_TEXT_ENCODER, "--overwrite"])


def check_gpt(file: SourceFile, config: Omni123Config, code_dim: int) -> set[str]:
    """Compares a GPT file with its sizes; returns the biases that it lacks and that are zero here."""
    hidden, vocabulary = config.hidden_size, config.num_shape_codes + NUM_SPECIALS
    expected: dict[str, tuple[int, ...]] = {
        gpt_key(key): shape
        for key, shape in _shapes(Omni123ForConditionalGeneration, config).items()
        if key not in _TABLES
    }
    expected |= {
        "transformer.wte.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "shape_proj.weight": (hidden, code_dim),
        "shape_proj.bias": (hidden,),
    }
    optional = set() if has_bias(file.shapes) else unbiased_optional(expected, file.shapes)
    compare("GPT", expected, file.shapes, optional)
    return optional - set(file.shapes)


def check_tokenizer(file: SourceFile, config: Omni123ShapeTokenizerConfig) -> str:
    """Compares a tokenizer file with its sizes; returns the name under which it keeps the embedder."""
    found = [name for name in EMBEDDER_NAMES if name in file.shapes]
    embedder = found[0] if found else EMBEDDER_NAMES[0]
    expected = {tokenizer_key(key): shape for key, shape in _shapes(Omni123ShapeTokenizer, config).items()}
    shape = expected.pop(EMBEDDER_NAMES[0])
    compare("tokenizer", {**expected, **dict.fromkeys(found or [embedder], shape)}, file.shapes)
    # One module of the reference is reachable under three names; which of them a file holds depends on how it was saved.
    if any(not torch.equal(file.tensor(embedder), file.tensor(name)) for name in found[1:]):
        raise Omni123Error(f"the tokenizer file holds different values for one embedder: {', '.join(found)}")
    return embedder


def build_tokenizer(
    file: SourceFile, config: Omni123ShapeTokenizerConfig, embedder: str, dtype: torch.dtype | None
) -> Omni123ShapeTokenizer:
    """Our shape tokenizer with the weights of a checked file."""
    tensors = {}
    for key in _shapes(Omni123ShapeTokenizer, config):
        name = tokenizer_key(key)
        tensors[key] = _finite(file, embedder if name == EMBEDDER_NAMES[0] else name)
    if dtype is not None:
        # Codes and point embedding stay in float32 in these models: rounding them would change tokens.
        pinned = tuple(Omni123ShapeTokenizer._keep_in_fp32_modules_strict or ())
        tensors = {key: value.to(torch.float32 if key.startswith(pinned) else dtype) for key, value in tensors.items()}
    return _model_of(Omni123ShapeTokenizer, config, tensors)


def build_gpt(
    file: SourceFile,
    config: Omni123Config,
    tokenizer: Omni123ShapeTokenizer,
    zeros: set[str],
    dtype: torch.dtype | None,
) -> Omni123ForConditionalGeneration:
    """Our backbone with the weights of a checked file and its token table baked.

    The reference overwrites the rows of the codes, when it loads, by its projection of the tokenizer's normalised code
    book, bias included. Its begin, end and padding rows become our `<shape>`, `<image>` and `<pad>`, so that the whole
    table equals the reference's.
    """
    tensors: dict[str, torch.Tensor] = {}
    for key, shape in _shapes(Omni123ForConditionalGeneration, config).items():
        name = gpt_key(key)
        if key not in _TABLES:
            tensors[key] = torch.zeros(shape, dtype=_type_of(tensors)) if name in zeros else _finite(file, name)
    table = _finite(file, "transformer.wte.weight").clone()
    bias = None if "shape_proj.bias" in zeros else _finite(file, "shape_proj.bias").float()
    with torch.no_grad():
        codes = F.linear(tokenizer.quantizer.codes(), _finite(file, "shape_proj.weight").float(), bias)
    table[: len(codes)] = codes.to(table.dtype)
    tensors["embed_tokens.weight"] = table
    tensors["shape_head.weight"] = _finite(file, "lm_head.weight")[: len(codes)].contiguous()
    if dtype is not None:
        tensors = {key: value.to(dtype) for key, value in tensors.items()}
    return _model_of(Omni123ForConditionalGeneration, config, tensors)


def load_text_encoder(name: str, width: int) -> dict[str, Any]:
    """The components `text_encoder` and `tokenizer`. Raises `Omni123Error` unless it is a whole CLIP of this width."""
    folder = os.path.expanduser(name)
    source = folder if os.path.isdir(folder) else name
    try:
        # A pickle (`pytorch_model.bin`) can run code when it is opened, and so can a tokenizer of one's own class.
        loaded: Any = CLIPTextModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (
        OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError, StrictDataclassError,
    ) as error:  # fmt: skip
        raise Omni123Error(
            f"cannot load --text-encoder {name!r} as a CLIP text model with its tokenizer ({' '.join(str(error).split())[:200]}); "
            f"give a folder that holds both (weights as safetensors), or a Hub id such as {PUBLIC_TEXT_ENCODER}"
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        raise Omni123Error(
            f"--text-encoder {name!r} lacks {len(report['missing_keys'])} tensors of a CLIP text model; give a whole one"
        )
    if model.config.hidden_size != width:
        raise Omni123Error(
            f"--text-encoder {name!r} is {model.config.hidden_size} wide and this GPT reads text of width {width}; give the "
            "text encoder that it was trained with"
        )
    # A tokenizer saved without its length would pad without end.
    tokenizer.model_max_length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    return {"text_encoder": model, "tokenizer": tokenizer}


def _shapes(model_class: type[PreTrainedModel], config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in model_class(config).state_dict().items()}


def _model_of(model_class: type[Any], config: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The model around the given tensors themselves, without a second copy of them."""
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _finite(file: SourceFile, name: str) -> torch.Tensor:
    tensor = file.tensor(name)
    if not torch.isfinite(tensor).all():
        raise Omni123Error(f"{name} of {file.source!r} contains NaN or infinity; download the file again")
    return tensor


def _type_of(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The type of the weights read so far: of a missing bias' own weight, which comes just before it."""
    return list(tensors.values())[-1].dtype
