"""Configurations: every form of saving, every field, the Auto classes."""

import copy
import dataclasses
import json
import pickle
from typing import Any

from common_contract import ModelUnderTest
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import omni123_hf.modeling as modeling


def own_fields(config_class: type) -> list[str]:
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return [field.name for field in dataclasses.fields(config_class) if field.name not in inherited]


def values_of(config: PreTrainedConfig) -> dict[str, Any]:
    """All fields but the folder that the config came from."""
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


def other_values(value: Any) -> list[Any]:
    """Values of the same type that a size, a weight or a switch could take instead."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value, value + 1, value // 2]
    return [value / 2, value + 0.125] if isinstance(value, float) else []


class ConfigTests(ModelUnderTest):
    def test_config_survives_every_form_of_saving(self, tmp_path):
        config = self.make_config()
        config.save_pretrained(tmp_path)
        config.save_pretrained(tmp_path / "part")
        config.to_json_file(tmp_path / "own.json")
        again = {
            "from_dict": self.config_class.from_dict(config.to_dict()),
            "from_json_file": self.config_class.from_json_file(tmp_path / "own.json"),
            "json string": self.config_class.from_dict(json.loads(config.to_json_string())),
            "whole json string": self.config_class.from_dict(json.loads(config.to_json_string(use_diff=False))),
            "from_pretrained": self.config_class.from_pretrained(tmp_path),
            "subfolder": self.config_class.from_pretrained(tmp_path, subfolder="part"),
            "AutoConfig": AutoConfig.from_pretrained(tmp_path),
            "copy": copy.deepcopy(config),
            "pickle": pickle.loads(pickle.dumps(config)),
        }
        for form, loaded in again.items():
            assert type(loaded) is self.config_class, form
            assert values_of(loaded) == values_of(config), form

    def test_diff_dict_rebuilds_the_config(self):
        """Files hold the difference from the base class; all own fields stay in them, so that new defaults change no file."""
        config = self.make_config()
        diff = config.to_diff_dict()
        assert values_of(self.config_class.from_dict(diff)) == values_of(config)
        assert set(own_fields(self.config_class)) <= diff.keys()
        assert "output_hidden_states" not in diff and "_name_or_path" not in diff

    def test_every_field_is_written_and_read(self):
        fields = own_fields(self.config_class)
        assert set(fields) <= self.make_config().to_dict().keys()
        changed = 0
        for name in fields:
            for value in other_values(getattr(self.make_config(), name)):
                try:
                    config = self.make_config(**{name: value})
                except ValueError:
                    continue
                assert getattr(config, name) == value, name
                loaded = self.config_class.from_dict(json.loads(config.to_json_string()))
                assert getattr(loaded, name) == value and type(getattr(loaded, name)) is type(value), name
                changed += 1
                break
        assert changed >= len(fields) // 2

    def test_unknown_fields_are_kept(self, tmp_path):
        config = self.make_config(house_style="brick")
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert config.house_style == loaded.house_style == loaded.to_dict()["house_style"] == "brick"

    def test_config_needs_no_arguments(self):
        assert self.config_class().to_dict().keys() >= set(own_fields(self.config_class))

    def test_model_type_is_its_own(self):
        """transformers' Auto classes find the model by this name alone."""
        name = self.config_class.model_type
        assert name and name not in CONFIG_MAPPING_NAMES
        configs = [getattr(modeling, name) for name in modeling.__all__ if name.endswith("Config")]
        assert [c.model_type for c in configs].count(name) == 1
        assert type(AutoConfig.for_model(name)) is self.config_class

    def test_auto_model_builds_the_class(self):
        assert type(AutoModel.from_config(self.make_config())) is self.model_class
        assert self.model_class.config_class is self.config_class

    def test_building_and_saving_a_model_leave_the_config_alone(self, tmp_path):
        config = self.make_config()
        before = copy.deepcopy(config).to_dict()
        model = self.model_class(config)
        model.save_pretrained(tmp_path)
        written_by_saving = {"architectures", "dtype", "transformers_version"}
        after = {k: v for k, v in model.config.to_dict().items() if k not in written_by_saving}
        assert after == {k: v for k, v in before.items() if k not in written_by_saving}
        assert model.config.architectures == [self.model_class.__name__]
