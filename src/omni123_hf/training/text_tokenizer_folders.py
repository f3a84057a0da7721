"""Text tokenizers of a run: by name or folder, or built once on the training captions and kept in the output folder."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainingArguments

from ..errors import Omni123Error
from ..modeling.text_tokenizers import build_clip_tokenizer, build_qwen_tokenizer
from .recipe import Recipe
from .record_pools import RecordPool
from .runner import replace_folder


def text_tokenizers(
    recipe: Recipe, pools: Sequence[RecordPool], arguments: TrainingArguments
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Tokenizers by name or folder, or new ones built on the training captions.

    `{name: ..., max_length: ...}` cuts texts at a length of the recipe's: tokenizers of language models have none that a caption
    could reach (the paper's Qwen3: 131,072).

    New ones are built once, by the first process, and kept in the output folder: building again could break ties between
    equally frequent pairs in another way, and a resumed run or another rank must read text alike.
    """
    tokenizers: list[PreTrainedTokenizerBase] = []
    for name, build in (("tokenizer", build_clip_tokenizer), ("tokenizer_2", build_qwen_tokenizer)):
        option = recipe.options[name]
        if isinstance(option, dict) and "name" in option:
            tokenizers.append(named_tokenizer(name, option))
            continue
        folder = option if isinstance(option, str) else recipe.output_dir / name
        with arguments.main_process_first(desc=f"build {name}"):
            if not isinstance(option, str):
                keep_tokenizer(Path(folder), build, option, pools)
        tokenizers.append(AutoTokenizer.from_pretrained(folder))
    return tokenizers[0], tokenizers[1]


def named_tokenizer(key: str, option: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer `option["name"]` with `option["max_length"]`. Raises `Omni123Error` for other keys."""
    check_named(key, option)
    return AutoTokenizer.from_pretrained(option["name"], model_max_length=option["max_length"])


def check_named(key: str, option: dict[str, Any]) -> None:
    length = option.get("max_length")
    if set(option) != {"name", "max_length"} or not isinstance(length, int) or length < 1:
        raise Omni123Error(
            f"options.{key} by name takes name and max_length (a whole number of tokens): got {dict(option)}."
        )


def keep_tokenizer(
    folder: Path, build: Callable[..., Any], option: dict[str, int], pools: Sequence[RecordPool]
) -> None:
    """Builds a tokenizer into `folder`, or checks that the one there was built for the same options and data."""
    facts = {**option, "data_hash": ",".join(pool.content_hash for pool in pools)}
    if not folder.is_dir():

        def write(temporary: Path) -> None:
            captions = list(training_captions(pools))
            build(captions, option["vocab_size"], option["max_length"]).save_pretrained(temporary)
            (temporary / "built_for.json").write_text(json.dumps(facts, indent=1) + "\n")

        replace_folder(folder, write)
    elif json.loads((folder / "built_for.json").read_text()) != facts:
        raise Omni123Error(
            f"{folder} was built for other captions or sizes: give the run another output_dir, or remove its folder."
        )


def training_captions(pools: Sequence[RecordPool]) -> Iterator[str]:
    """Every text of the training splits."""
    for pool in pools:
        for row in pool.indices("train"):
            for texts in pool.texts(int(row)).values():
                yield from texts
