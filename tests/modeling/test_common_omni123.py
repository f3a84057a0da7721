"""The common model tests for the autoregressive model, and what its embeddings and its loss promise to transformers."""

from typing import Any

import pytest
import torch
from common_contract import run
from common_model_tests import CommonModelTests
from tiny_omni123 import KI, KS, make_config, make_model, make_sequence, make_text
from torch import nn

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration


class TestOmni123ForConditionalGeneration(CommonModelTests):
    model_class = Omni123ForConditionalGeneration
    config_class = Omni123Config
    row_fields = ("last_hidden_state", "shape_logits", "image_logits")
    attention_implementations = ("eager", "sdpa", "flex_attention")
    constant_at_start = {
        r"_norm\.weight$": "gains of norms start at one",
        r"\.bias$": "biases start at zero",
        r"_code_table$": "zero until `set_code_tables` copies the tokenizers' codes",
    }
    lora_targets = ("qk_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def make_config(self, **changes: Any) -> Omni123Config:
        return make_config(**changes)

    def make_model(self, seed: int = 0) -> Omni123ForConditionalGeneration:
        return make_model(seed)

    def make_inputs(self, batch: int = 2) -> dict[str, Any]:
        sequence = make_sequence("image-to-3d", self.make_config(), batch=batch)
        null = torch.arange(batch) == 1
        return {
            "input_ids": sequence.ids,
            "prefix_length": sequence.prefix_length,
            "null_text": null,
            **make_text(batch),
        }

    def make_training_inputs(self, batch: int = 2) -> dict[str, Any]:
        sequence = make_sequence("text-to-images-to-3d-to-images", self.make_config(), batch=batch)
        null = torch.arange(batch) == 1
        return {"input_ids": sequence.ids, "labels": sequence.labels, "null_text": null, **make_text(batch)}

    def make_padded_inputs(self) -> dict[str, Any]:
        inputs = self.make_inputs()
        wider = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(7))
        return {
            **inputs,
            "input_ids": nn.functional.pad(inputs["input_ids"], (0, 2), value=self.make_config().pad_id),
            "text_embeds_2": torch.cat([inputs["text_embeds_2"], wider], dim=1),
            "text_attention_mask_2": nn.functional.pad(inputs["text_attention_mask_2"], (0, 3)),
        }

    def doors(self, model: Omni123ForConditionalGeneration) -> dict[str, Any]:
        ids, text = self.make_inputs()["input_ids"], make_text()
        return {
            "embed_ids": lambda: model.embed_ids(ids),
            "embed_conditioning": lambda: model.embed_conditioning(2, **text)[0],
        }

    def test_reentrant_checkpointing_reaches_adapters(self):
        """It cuts the gradient where no input of a layer needs one, unless the embeddings pass one on."""
        model = self._adapted(self.make_model()).train()
        _, plain = self._gradients(model)
        model.base_model.model.gradient_checkpointing_enable({"use_reentrant": True})
        _, checkpointed = self._gradients(model)
        assert checkpointed.keys() == plain.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-6)

    def test_input_embeddings_can_be_read_and_replaced(self):
        model = self.make_model()
        table = model.get_input_embeddings()
        assert table.weight.shape == (model.config.vocab_size, model.config.hidden_size)
        before = run(model, self.make_inputs())["last_hidden_state"]
        other = nn.Embedding(*table.weight.shape)
        model.set_input_embeddings(other)
        assert model.get_input_embeddings() is other
        assert not torch.allclose(run(model, self.make_inputs())["last_hidden_state"], before)
        model.set_input_embeddings(table)
        assert torch.equal(run(model, self.make_inputs())["last_hidden_state"], before)
        # `exclude_embeddings` and PEFT's saving rely on the same answer.
        assert model.num_parameters() - model.num_parameters(exclude_embeddings=True) == table.weight.numel()

    @pytest.mark.parametrize("change", [1, -1, 64])
    def test_vocabulary_cannot_be_resized(self, change):
        """Ids are laid out by the config: a row more or less at the end would shift or cut views, and codes mean tables."""
        model = self.make_model()
        size = model.config.vocab_size
        with pytest.raises(Omni123Error, match="vocab"):
            model.resize_token_embeddings(size + change)
        assert model.config.vocab_size == size == model.get_input_embeddings().num_embeddings
        assert model.resize_token_embeddings() is model.get_input_embeddings()
        assert model.resize_token_embeddings(size) is model.get_input_embeddings()

    def test_heads_are_not_tied(self):
        model = self.make_model()
        assert model.get_output_embeddings() is None
        assert not model.all_tied_weights_keys and not model.config.tie_word_embeddings
        model.tie_weights()
        pointers = {
            p.data_ptr() for p in (model.embed_tokens.weight, model.shape_head.weight, model.image_head.weight)
        }
        assert len(pointers) == 3
        assert model.shape_head.weight.shape[0] == KS and model.image_head.weight.shape[0] == KI
        with pytest.raises(Omni123Error, match="tie_word_embeddings"):
            make_config(tie_word_embeddings=True)

    def test_logits_to_keep_are_the_last_ones(self):
        model = self.make_model()
        inputs = self.make_inputs()
        every, last = run(model, inputs), run(model, inputs, logits_to_keep=2)
        for name in ("shape_logits", "image_logits"):
            torch.testing.assert_close(last[name], every[name][:, -2:])
        only = run(model, inputs, logits_to_keep=1, modality="shape")
        assert "image_logits" not in only and only["shape_logits"].shape[1] == 1

    def test_a_cached_pass_equals_the_whole_pass(self):
        model = self.make_model()
        inputs = self.make_inputs()
        whole = run(model, inputs)
        first = {**inputs, "input_ids": inputs["input_ids"][:, :-3]}
        with torch.no_grad():
            output = model(**first, use_cache=True)
            rest = model(
                input_ids=inputs["input_ids"][:, -3:],
                past_key_values=output.past_key_values,
                conditioning_mask=output.conditioning_mask,
            )
        torch.testing.assert_close(rest.shape_logits, whole["shape_logits"][:, -3:], atol=1e-5, rtol=1e-5)
