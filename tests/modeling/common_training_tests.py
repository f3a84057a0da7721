"""Training: gradients, one step, activation checkpointing, accumulation of the loss, adapters."""

import inspect
from typing import Any

import pytest
import torch
from common_contract import Inputs, ModelUnderTest, assert_same, rows_of, run
from common_forward_tests import count_calls


class TrainingTests(ModelUnderTest):
    def _loss(self, model: Any, inputs: Inputs | None = None, **options: Any) -> torch.Tensor:
        """The training loss with the same random draws in every call."""
        torch.manual_seed(5)
        return model(**(self.make_training_inputs() if inputs is None else inputs), **options).loss

    def _gradients(self, model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = self._loss(model)
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def test_every_trainable_parameter_gets_a_finite_gradient(self):
        """One that gets none stops distributed training, which waits for all."""
        model = self.make_model().train()
        loss, gradients = self._gradients(model)
        assert loss.ndim == 0 and loss.isfinite()
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable - gradients.keys() == set() and gradients.keys() <= trainable
        assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
        assert sum(bool(gradient.abs().max() > 0) for gradient in gradients.values()) > 0.9 * len(gradients)

    def test_steps_lower_the_loss(self):
        model = self.make_model().train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        losses = []
        for _ in range(6):
            loss = self._loss(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] and all(torch.isfinite(torch.tensor(losses)))

    def test_autocast_training_gives_finite_gradients(self):
        model = self.make_model().train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self._loss(model)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    @pytest.mark.slow
    def test_compiled_training_gives_the_same_gradients(self):
        model = self.make_model().train()
        loss, gradients = self._gradients(model)
        torch.compiler.reset()
        again = self._loss(torch.compile(model, backend="eager"))
        model.zero_grad()
        again.backward()
        torch.testing.assert_close(again.detach(), loss)
        compiled = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert_same(compiled, gradients, 1e-5)

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_checkpointing_gives_the_same_loss_and_gradients(self, monkeypatch, reentrant):
        model = self.make_model().train()
        loss, gradients = self._gradients(model)
        calls = count_calls(monkeypatch, "scaled_dot_product_attention")
        self._loss(model).backward()
        plain_calls = len(calls)
        calls.clear()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        again, checkpointed = self._gradients(model)
        assert len(calls) == 2 * plain_calls, "some attention layers were not recomputed"
        torch.testing.assert_close(again, loss)
        assert_same(checkpointed, gradients, 1e-6)

    def test_checkpointing_can_be_switched(self):
        model = self.build()
        assert model.supports_gradient_checkpointing and not model.is_gradient_checkpointing
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
        model.gradient_checkpointing_disable()
        assert not model.is_gradient_checkpointing

    def test_loss_keywords_are_read_or_not_accepted(self):
        """The Trainer takes a `forward` with `**kwargs` for one that divides by `num_items_in_batch` itself."""
        parameters = inspect.signature(self.model_class.forward).parameters
        takes_any = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        claims = getattr(self.model_class, "accepts_loss_kwargs", takes_any)
        assert claims == ("num_items_in_batch" in parameters)

    def test_accumulated_loss_equals_the_loss_of_the_whole_batch(self):
        """The Trainer's accumulation: by item counts where the model reads them, else the mean of equal parts."""
        model = self.make_model()
        inputs = self.make_training_inputs(batch=4)
        parts = [rows_of(inputs, slice(start, start + 2)) for start in (0, 2)]
        whole = self._loss(model, inputs)
        if getattr(model, "accepts_loss_kwargs", False):
            items = int((inputs["labels"][:, 1:] != -100).sum())
            losses = [self._loss(model, part, num_items_in_batch=items) for part in parts]
            torch.testing.assert_close(self._loss(model, inputs, num_items_in_batch=torch.tensor(items)), whole)
        else:
            losses = [self._loss(model, part) / len(parts) for part in parts]
        torch.testing.assert_close(sum(losses), whole)

    def _adapted(self, model: Any) -> Any:
        peft = pytest.importorskip("peft", reason="peft is an optional package: pip install peft")
        torch.manual_seed(11)
        targets = list(self.lora_targets)
        return peft.get_peft_model(
            model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        )

    def test_lora_trains_saves_loads_and_merges(self, tmp_path):
        original = run(self.make_model(), self.make_inputs())
        model = self._adapted(self.make_model()).train()
        adapted = {
            name.split(".")[-2] for name, _ in model.base_model.model.named_modules() if name.endswith("lora_A")
        }
        assert {target.split(".")[-1] for target in self.lora_targets} == adapted
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        first = self._loss(model)
        first.backward()
        graded = [name for name, p in model.named_parameters() if p.grad is not None]
        assert graded and all("lora_" in name for name in graded)
        for _ in range(5):
            optimizer.step()
            optimizer.zero_grad()
            loss = self._loss(model)
            loss.backward()
        assert loss < first
        model.eval()
        expected = run(model, self.make_inputs())
        assert any(not torch.allclose(expected[k], original[k], atol=1e-4) for k in self.row_fields)
        model.save_pretrained(tmp_path)
        from peft import PeftModel

        # An adapter holds no buffers: statistics that followed the training travel separately.
        statistics = dict(model.base_model.model.named_buffers())
        loaded = PeftModel.from_pretrained(with_buffers(self.make_model(), statistics), tmp_path).eval()
        assert_same(run(loaded, self.make_inputs()), expected)
        native = with_buffers(self.make_model(), statistics)
        unadapted = run(native, self.make_inputs())
        native.load_adapter(tmp_path)
        assert_same(run(native, self.make_inputs()), expected)
        native.disable_adapters()
        assert_same(run(native, self.make_inputs()), unadapted)
        merged = loaded.merge_and_unload()
        assert type(merged) is self.model_class and merged.state_dict().keys() == self.build().state_dict().keys()
        assert_same(run(merged, self.make_inputs()), expected, 1e-4)

    def test_lora_trains_under_checkpointing(self):
        model = self._adapted(self.make_model()).train()
        _, plain = self._gradients(model)
        model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        _, checkpointed = self._gradients(model)
        assert_same(checkpointed, plain, 1e-6)


def with_buffers(model: Any, buffers: dict[str, torch.Tensor]) -> Any:
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return model
