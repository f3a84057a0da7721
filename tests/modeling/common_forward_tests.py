"""The forward pass: determinism, outputs, batches, attention implementations, precision, compilation."""

import copy
import inspect
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from common_contract import ModelUnderTest, assert_same, rows_of, run, tensors_of


FLOAT32_TOLERANCE = 1e-5
OTHER_IMPLEMENTATIONS = ("flash_attention_2", "flex_attention")


class ForwardTests(ModelUnderTest):
    def test_first_argument_is_the_main_input(self):
        names = list(inspect.signature(self.model_class.forward).parameters)
        assert names[1] == self.model_class.main_input_name
        assert set(self.make_inputs()) | set(self.make_training_inputs()) <= set(names)

    def test_evaluation_is_deterministic_and_changes_nothing(self):
        model = self.make_model()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        torch.manual_seed(1)
        first = run(model, self.make_inputs())
        torch.manual_seed(2)
        assert_same(run(model, self.make_inputs()), first)
        assert_same(dict(model.state_dict()), before)
        assert set(self.row_fields) <= first.keys()

    def test_training_mode_passes_to_every_part_and_back(self):
        model = self.make_model()
        first = run(model, self.make_inputs())
        model.train().eval()
        assert not any(module.training for module in model.modules())
        assert_same(run(model, self.make_inputs()), first)

    def test_tuple_output_equals_the_named_one(self):
        model = self.make_model()
        inputs = self.make_inputs()
        with torch.no_grad():
            named = model(**inputs)
            plain = model(**inputs, return_dict=False)
            model.config.return_dict = False
            by_config = model(**inputs)
        for values in (plain, by_config):
            assert type(values) is tuple and len(values) == len(named.to_tuple())
            for left, right in zip(values, named.to_tuple(), strict=True):
                assert not isinstance(left, torch.Tensor) or torch.equal(left, right)

    def test_outputs_can_be_copied_and_pickled(self):
        with torch.no_grad():
            output = self.make_model()(**self.make_inputs())
        buffer = io.BytesIO()
        torch.save(output, buffer)
        buffer.seek(0)
        for other in (
            copy.deepcopy(output),
            pickle.loads(pickle.dumps(output)),
            torch.load(buffer, weights_only=False),
        ):
            assert type(other) is type(output) and other.keys() == output.keys()
            assert all(torch.equal(other[f], output[f]) for f in self.row_fields)

    def test_ignored_outputs_are_fields(self):
        """The Trainer drops `keys_to_ignore_at_inference` by name when it gathers predictions."""
        output = self.make_model()(**self.make_training_inputs())
        ignored = set(getattr(self.config_class, "keys_to_ignore_at_inference", []))
        assert ignored <= set(inspect.signature(type(output)).parameters)

    def test_a_row_of_a_batch_equals_the_row_alone(self):
        model = self.make_model()
        inputs = self.make_inputs(batch=3)
        together = run(model, inputs)
        for row in range(3):
            alone = run(model, rows_of(inputs, slice(row, row + 1)))
            for field in self.row_fields:
                torch.testing.assert_close(
                    alone[field], together[field][row : row + 1], atol=FLOAT32_TOLERANCE, rtol=FLOAT32_TOLERANCE
                )
        assert all((together[f][0].float() - together[f][1].float()).abs().max() > 0 for f in self.row_fields)

    def test_padding_changes_nothing(self):
        self.needs("padding")
        model = self.make_model()
        plain, padded = run(model, self.make_inputs()), run(model, self.make_padded_inputs())
        for field in self.row_fields:
            kept = padded[field][:, : plain[field].shape[1]]
            torch.testing.assert_close(kept, plain[field], atol=FLOAT32_TOLERANCE, rtol=FLOAT32_TOLERANCE)

    def test_hidden_states_are_the_stream_between_the_layers(self):
        self.needs("hidden states")
        model = self.make_model()
        inputs = self.make_inputs()
        plain = run(model, inputs)
        output = model(**inputs, output_hidden_states=True)
        states = output.hidden_states
        assert isinstance(states, tuple) and len(states) == model.config.num_hidden_layers + 1
        assert {tuple(state.shape) for state in states} == {(*plain["last_hidden_state"].shape,)}
        assert all(not torch.equal(a, b) for a, b in zip(states[:-1], states[1:], strict=True))
        assert_same({k: v for k, v in tensors_of(output).items() if k in plain}, plain)
        for state in states:
            state.retain_grad()
        # Cubes, because the sum and the squares of a normalised vector are constant.
        output.last_hidden_state.pow(3).sum().backward()
        assert all(state.grad.isfinite().all() and state.grad.abs().max() > 0 for state in states)
        assert "hidden_states" not in model(**inputs)

    def test_attentions_are_weights_and_only_eager_has_them(self):
        self.needs("hidden states")
        model = self.make_model()
        model.set_attn_implementation("eager")
        output = model(**self.make_inputs(), output_attentions=True)
        assert isinstance(output.attentions, tuple) and len(output.attentions) == model.config.num_hidden_layers
        for weights in output.attentions:
            assert weights.ndim == 4 and weights.shape[1] == model.config.num_attention_heads
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        model.set_attn_implementation("sdpa")
        with pytest.raises(ValueError, match="eager"):
            model(**self.make_inputs(), output_attentions=True)

    def test_what_is_said_to_be_absent_is_absent(self):
        names = set(inspect.signature(self.model_class.forward).parameters)
        absent = {
            "padding": not any("mask" in name or "length" in name for name in names),
            "hidden states": "output_hidden_states" not in names,
            # None, not the base class's NotImplementedError: torchao asks while it loads.
            "input embeddings": self.build().get_input_embeddings() is None,
        }
        assert {capability for capability, value in absent.items() if value} == self.lacks.keys()
        assert all(len(reason) > 20 for reason in self.lacks.values())

    def test_attention_implementations_agree(self, tmp_path):
        self.make_model().save_pretrained(tmp_path)
        outputs = {}
        for name in self.attention_implementations:
            model = self.model_class.from_pretrained(tmp_path, attn_implementation=name)
            assert model.config._attn_implementation == name
            outputs[name] = run(model, self.make_inputs())
        for name in self.attention_implementations:
            shared = outputs[name].keys() & outputs["sdpa"].keys()
            assert_same(
                {k: outputs[name][k] for k in shared}, {k: outputs["sdpa"][k] for k in shared}, FLOAT32_TOLERANCE
            )

    def test_attention_implementation_is_not_written_to_the_checkpoint(self, tmp_path):
        self.make_model().save_pretrained(tmp_path / "a")
        eager = self.model_class.from_pretrained(tmp_path / "a", attn_implementation="eager")
        eager.save_pretrained(tmp_path / "b")
        loaded = self.model_class.from_pretrained(tmp_path / "b")
        assert loaded.config._attn_implementation == "sdpa"

    @pytest.mark.parametrize("way", ["at load", "later"])
    def test_eager_is_eager(self, tmp_path, monkeypatch, way):
        """A name that is accepted must be what runs, sub-models included."""
        self.make_model().save_pretrained(tmp_path)
        if way == "at load":
            model = self.model_class.from_pretrained(tmp_path, attn_implementation="eager")
        else:
            model = self.model_class.from_pretrained(tmp_path)
            model.set_attn_implementation("eager")
        assert model.config._attn_implementation == "eager"
        calls = count_calls(monkeypatch, "scaled_dot_product_attention")
        run(model, self.make_inputs())
        assert len(calls) == 0
        model.set_attn_implementation("sdpa")
        run(model, self.make_inputs())
        assert len(calls) > 0

    def test_other_attention_implementations_are_refused(self, tmp_path):
        """At load and later, by an error that names the implementation, and without a trace in the model."""
        model = self.make_model()
        model.save_pretrained(tmp_path)
        for name in OTHER_IMPLEMENTATIONS:
            if name in self.attention_implementations:
                continue
            family = name.split("_")[0]
            with pytest.raises(ValueError, match=f"(?i){family}"):
                self.model_class.from_pretrained(tmp_path, attn_implementation=name)
            with pytest.raises(ValueError, match=f"(?i){family}"):
                model.set_attn_implementation(name)
            assert model.config._attn_implementation == "sdpa"
        run(model, self.make_inputs())

    def test_an_unknown_attention_implementation_is_refused(self):
        model = self.make_model()
        with pytest.raises(ValueError, match="no_such_attention"):
            model.set_attn_implementation("no_such_attention")

    def test_autocast_runs_in_half_precision(self):
        model = self.make_model()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = run(model, self.make_inputs())
        assert all(tensor.isfinite().all() for tensor in results.values())
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    def test_compiled_forward_is_one_graph_with_equal_outputs(self):
        model = self.make_model()
        # Uncompiled first: transformers' encoders install their hidden-state hooks in the first pass, under a lock.
        expected = run(model, self.make_inputs())
        torch.compiler.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert_same(run(compiled, self.make_inputs()), expected, FLOAT32_TOLERANCE)

    def test_compiled_doors_are_one_graph_with_equal_outputs(self):
        model = self.make_model()
        torch.compiler.reset()
        with torch.no_grad():
            for call in self.doors(model).values():
                expected = call()
                torch.testing.assert_close(torch.compile(call, backend="eager", fullgraph=True)(), expected)

    @pytest.mark.slow
    def test_exported_program_gives_equal_outputs(self):
        model = self.make_model()
        inputs = self.make_inputs()
        expected = run(model, inputs)
        with torch.no_grad():
            program = torch.export.export(model, (), inputs, strict=False)
        assert_same(run(program.module(), inputs), expected, FLOAT32_TOLERANCE)


def count_calls(monkeypatch, name: str) -> list[str]:
    """Calls of `torch.nn.functional.<name>` from here on, as a list that grows."""
    calls: list[str] = []
    original = getattr(F, name)

    def counted(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(F, name, counted)
    return calls
