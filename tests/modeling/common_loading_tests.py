"""Saving and loading: files, shards, dtypes, devices, loading reports."""

import copy
import re
from typing import Any

import pytest
import torch
from common_contract import ModelUnderTest, assert_same, run, tensors_of_model
from safetensors.torch import load_file
from transformers import AutoModel


class LoadingTests(ModelUnderTest):
    def _doors(self, model) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {name: call() for name, call in self.doors(model).items()}

    def test_save_and_load_give_equal_outputs(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is self.model_class and not loaded.training
        assert_same(run(loaded, self.make_inputs()), run(model, self.make_inputs()))
        assert_same(self._doors(loaded), self._doors(model))

    def test_saving_is_reproducible(self, tmp_path):
        model = self.make_model()
        for name in ("a", "b"):
            model.save_pretrained(tmp_path / name)
        self.model_class.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "c")
        files = {name: {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc"}
        assert files["a"] == files["b"] == files["c"]
        expected = {"config.json", "model.safetensors"} | (
            {"generation_config.json"} if model.can_generate() else set()
        )
        assert files["a"].keys() == expected

    def test_sharded_checkpoint_loads_and_is_replaced_by_a_whole_one(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path, max_shard_size="10KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
        assert (tmp_path / "model.safetensors.index.json").exists()
        loaded = self.model_class.from_pretrained(tmp_path)
        assert_same(run(loaded, self.make_inputs()), run(model, self.make_inputs()))
        model.save_pretrained(tmp_path)
        assert not list(tmp_path.glob("model-*"))

    def test_variant(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path, variant="ema")
        assert (tmp_path / "model.ema.safetensors").exists() and not (tmp_path / "model.safetensors").exists()
        loaded = self.model_class.from_pretrained(tmp_path, variant="ema")
        assert_same(run(loaded, self.make_inputs()), run(model, self.make_inputs()))

    @pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"])
    def test_device_map_of_one_device(self, tmp_path, device_map):
        model = self.make_model()
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, device_map=device_map).to("cpu")
        assert_same(run(loaded, self.make_inputs()), run(model, self.make_inputs()))

    def test_weights_offloaded_to_disk_give_equal_outputs(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path / "model")
        for share in (0.7, 0.4):
            loaded = self.model_class.from_pretrained(
                tmp_path / "model",
                device_map="auto",
                max_memory={"cpu": int(share * model.get_memory_footprint())},
                offload_folder=tmp_path / "offload",
            )
            assert set(loaded.hf_device_map.values()) == {"cpu", "disk"}
            assert any(parameter.device.type == "meta" for parameter in loaded.parameters())
            assert_same(run(loaded, self.make_inputs()), run(model, self.make_inputs()))

    def test_layers_that_must_not_be_split_exist(self):
        """A misspelt name is ignored by accelerate and FSDP, which then cut through residual connections."""
        model = self.build()
        classes = {type(module).__name__ for module in model.modules()}
        own = set(self.model_class._no_split_modules)
        assert own and own <= classes
        # transformers adds those of sub-models, some of which belong to their other variants.
        assert own <= set(model._no_split_modules or ())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_dtype_at_load_spares_pinned_modules_and_no_others(self, tmp_path, dtype):
        self.make_model().save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, dtype=dtype)
        self._assert_pinned(loaded, dtype)
        results = run(loaded, self.make_inputs())
        assert all(tensor.isfinite().all() for tensor in results.values())
        assert all(tensor.isfinite().all() for tensor in self._doors(loaded).values())

    def _assert_pinned(self, model, dtype: torch.dtype) -> None:
        floating = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        wide = {name for name, tensor in floating.items() if tensor.dtype == torch.float32}
        assert {tensor.dtype for tensor in floating.values()} <= {dtype, torch.float32}
        assert wide == {name for name in floating if any(part in name for part in self.pinned)}
        assert all(any(part in name for name in floating) for part in self.pinned)

    def test_dtype_auto_is_the_one_of_the_checkpoint(self, tmp_path):
        self.make_model().save_pretrained(tmp_path / "float32")
        half = self.model_class.from_pretrained(tmp_path / "float32", dtype=torch.bfloat16)
        half.save_pretrained(tmp_path / "bfloat16")
        for options in ({}, {"dtype": "auto"}):
            assert self.model_class.from_pretrained(tmp_path / "float32", **options).dtype == torch.float32
            loaded = self.model_class.from_pretrained(tmp_path / "bfloat16", **options)
            self._assert_pinned(loaded, torch.bfloat16)
            assert_same(dict(loaded.state_dict()), dict(half.state_dict()))
        whole = self.model_class.from_pretrained(tmp_path / "bfloat16", dtype=torch.float32)
        assert {p.dtype for p in whole.parameters()} == {torch.float32}

    @pytest.mark.parametrize("cast", ["half", "bfloat16", "to"])
    def test_casting_a_model_keeps_pinned_modules_exact(self, cast):
        model: Any = self.make_model()
        before = {k: v.clone() for k, v in model.state_dict().items() if any(part in k for part in self.pinned)}
        dtype = torch.float16 if cast == "half" else torch.bfloat16
        model = model.to(dtype=dtype) if cast == "to" else getattr(model, cast)()
        self._assert_pinned(model, dtype)
        now = model.state_dict()
        assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
        assert all(tensor.isfinite().all() for tensor in run(model, self.make_inputs()).values())
        assert {p.dtype for p in model.to(dtype=torch.float32).parameters()} == {torch.float32}

    def test_loading_report_names_missing_unexpected_and_ill_fitting_keys(self):
        state = dict(self.make_model().state_dict())
        names = [k for k, v in state.items() if v.ndim == 2]
        missing, ill = names[0], names[-1]
        changed = {k: v for k, v in state.items() if k != missing}
        changed["no.such.weight"] = torch.zeros(1)
        changed[ill] = torch.zeros(1, 1)
        options = {"config": self.make_config(), "state_dict": changed}
        with pytest.raises(RuntimeError, match="(?i)mismatch"):
            self.model_class.from_pretrained(None, **options)
        _, info = self.model_class.from_pretrained(
            None, **options, ignore_mismatched_sizes=True, output_loading_info=True
        )
        assert set(info["missing_keys"]) == {missing}
        assert set(info["unexpected_keys"]) == {"no.such.weight"}
        assert [(e[0], tuple(e[1]), tuple(e[2])) for e in info["mismatched_keys"]] == [(ill, (1, 1), state[ill].shape)]

    def test_a_complete_checkpoint_reports_nothing(self, tmp_path):
        self.make_model().save_pretrained(tmp_path)
        _, info = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert {key: value for key, value in info.items() if value} == {}

    def test_state_dict_survives_torch_save(self, tmp_path):
        model = self.make_model()
        torch.save(model.state_dict(), tmp_path / "state.pt")
        other = self.build(seed=9)
        report = other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert not report.missing_keys and not report.unexpected_keys
        assert_same(run(other, self.make_inputs()), run(model, self.make_inputs()))

    def test_from_pretrained_takes_a_state_dict(self):
        model = self.make_model()
        loaded = self.model_class.from_pretrained(None, config=model.config, state_dict=model.state_dict())
        assert_same(run(loaded, self.make_inputs()), run(model, self.make_inputs()))

    def test_weights_are_contiguous_and_share_no_memory(self, tmp_path):
        state = self.make_model().state_dict()
        assert [key for key, value in state.items() if not value.is_contiguous()] == []
        pointers = [value.untyped_storage().data_ptr() for value in state.values()]
        assert len(set(pointers)) == len(pointers)

    def test_a_transposed_weight_is_saved_by_value(self, tmp_path):
        model = self.make_model()
        parameter = next(p for p in model.parameters() if p.ndim == 2 and min(p.shape) > 1)
        parameter.data = parameter.data.t().contiguous().t()
        assert not parameter.is_contiguous()
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path)
        assert_same(dict(loaded.state_dict()), dict(model.state_dict()))

    def test_every_tensor_is_a_parameter_or_a_buffer(self):
        """Any other tensor would stay on the meta device, or behind on the CPU."""
        with torch.device("meta"):
            model = self.model_class(self.make_config())
        stray = []
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                values = value if isinstance(value, list | tuple) else [value]
                stray += [f"{path}.{name}" for part in values if isinstance(part, torch.Tensor)]
        assert stray == []
        assert {tensor.device.type for tensor in tensors_of_model(model).values()} == {"meta"}

    def test_building_on_a_device_context_gives_a_loadable_model(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path)
        with torch.device("cpu"):
            loaded = self.model_class.from_pretrained(tmp_path)
        assert_same(run(loaded, self.make_inputs()), run(model, self.make_inputs()))
        with torch.device("meta"):
            empty = self.model_class(self.make_config())
        empty.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)

    def test_sizes_are_reported(self):
        model = self.build()
        parameters = list(model.parameters())
        assert model.num_parameters() == sum(p.numel() for p in parameters)
        parameters[0].requires_grad_(False)
        assert model.num_parameters(only_trainable=True) == sum(p.numel() for p in parameters if p.requires_grad)
        assert model.get_memory_footprint() == sum(t.nbytes for t in tensors_of_model(model).values())
        assert model.dtype == torch.float32 and model.device == torch.device("cpu")

    def test_copies_are_independent(self):
        model = self.make_model()
        other = copy.deepcopy(model)
        assert_same(run(other, self.make_inputs()), run(model, self.make_inputs()))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1.0)
        state, changed = model.state_dict(), dict(other.named_parameters())
        assert all(not torch.equal(state[name], changed[name]) for name in changed)
        assert other.config is not model.config

    def test_can_generate_is_honest(self):
        """transformers concludes it from a base class's name; a True without `generate` breaks pipelines and saving."""
        model = self.build()
        assert model.can_generate() == callable(getattr(model, "generate", None))
        assert model.can_generate() == (getattr(model, "generation_config", None) is not None)

    def test_pinned_modules_are_declared(self):
        declared = set(self.model_class._keep_in_fp32_modules_strict or [])
        names = [name for name, _ in self.build().named_parameters()]
        assert [part for part in declared if not any(re.search(part, name) for name in names)] == []
