"""From samples to model inputs; sequences come from the tasks' declarations (`modeling/tasks.py`)."""

from collections.abc import Sequence as Items
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..errors import Omni123Error
from ..modeling.configuration_omni123 import Omni123Config
from ..modeling.packing_omni123 import pack_sequences
from ..modeling.tasks import Sequence, build_sequence
from .task_samples import TaskSample
from .text_conditioned import TextConditionedOmni123


class TaskCollator:
    """A batch of samples as inputs of `TextConditionedOmni123`, with `task_name` (one task) or "" (several).

    `batching` "task" stacks samples of one task, "padded" pads each to the longest, "packed" lays all out in one row of a
    multiple of `pack_multiple` positions. `tokenizer_2` None: the backbone has one text encoder.
    """

    def __init__(
        self,
        config: Omni123Config,
        tokenizer: PreTrainedTokenizerBase,
        tokenizer_2: PreTrainedTokenizerBase | None,
        batching: str = "task",
        pack_multiple: int = 1,
    ):
        self.config, self.tokenizer, self.tokenizer_2 = config, tokenizer, tokenizer_2
        self.batching, self.pack_multiple = batching, pack_multiple
        # A model without a learned null embedding reads the empty prompt in its place (Cube 3D).
        self.empty_prompt = config.null_condition == "empty_prompt"

    def __call__(self, samples: Items[TaskSample]) -> dict[str, Any]:
        tasks = {sample.task for sample in samples}
        if self.batching == "task":
            if len(tasks) > 1:
                raise Omni123Error("a micro-batch holds one task: the loader's batch size differs from the sampler's.")
            batch = self.stacked(samples)
        elif self.batching == "padded":
            batch = self.padded(samples)
        else:
            batch = self.packed(samples)
        batch.update(self.text(samples))
        if any(sample.task.prefix for sample in samples):
            batch["drop_prefix"] = torch.tensor([sample.drop_prefix for sample in samples])
        batch["task_name"] = samples[0].task.name if len(tasks) == 1 else ""
        return batch

    def sequence(self, sample: TaskSample) -> Sequence:
        return build_sequence(sample.task, sample.parts, self.config)

    def stacked(self, samples: Items[TaskSample]) -> dict[str, Any]:
        parts = {name: np.stack([sample.parts[name] for sample in samples]) for name in samples[0].parts}
        sequence = build_sequence(samples[0].task, parts, self.config)
        prefix = torch.full((len(samples),), sequence.prefix_length)
        return {"input_ids": sequence.ids, "labels": sequence.labels, "prefix_length": prefix}

    def padded(self, samples: Items[TaskSample]) -> dict[str, Any]:
        sequences = [self.sequence(sample) for sample in samples]
        length = max(len(sequence.ids) for sequence in sequences)
        ids = torch.full((len(samples), length), self.config.pad_id)
        labels = torch.full((len(samples), length), -100)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence.ids)] = sequence.ids
            labels[row, : len(sequence.ids)] = sequence.labels
        prefix = torch.tensor([sequence.prefix_length for sequence in sequences])
        return {"input_ids": ids, "labels": labels, "prefix_length": prefix}

    def packed(self, samples: Items[TaskSample]) -> dict[str, Any]:
        row = pack_sequences([self.sequence(sample) for sample in samples], self.config.pad_id, self.pack_multiple)
        return {
            "input_ids": row.input_ids,
            "labels": row.labels,
            "document_ids": row.document_ids,
            "prefix_length": row.prefix_length,
        }

    def text(self, samples: Items[TaskSample]) -> dict[str, torch.Tensor]:
        inputs = self.tokenize(["" if self.empty_prompt and sample.null_text else sample.text for sample in samples])
        if not self.empty_prompt:
            inputs["null_text"] = torch.tensor([sample.null_text for sample in samples])
        return inputs

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Texts as `TextConditionedOmni123.encode_text` takes them."""
        first = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        inputs = {"text_ids": first["input_ids"]}
        if self.tokenizer_2 is not None:
            second = self.tokenizer_2(texts, padding="longest", truncation=True, return_tensors="pt")
            inputs |= {"text_ids_2": second["input_ids"], "text_attention_mask_2": second["attention_mask"]}
        return inputs


def generation_conditions(
    model: TextConditionedOmni123, collator: TaskCollator, texts: list[str], guidance_scale: float
) -> dict[str, Any]:
    """Text inputs of `generate_plan`; a guided model that reads the empty prompt for no text gets that too."""
    count, empty = len(texts), collator.empty_prompt and guidance_scale != 1
    # In one batch, for both must be padded alike.
    inputs = collator.tokenize([*texts, ""] if empty else texts)
    text = model.encode_text(**{name: value.to(model.transformer.device) for name, value in inputs.items()})
    if not empty:
        return text
    negative = {f"negative_{name}": value[count:] for name, value in text.items()}
    return {**{name: value[:count] for name, value in text.items()}, **negative}
