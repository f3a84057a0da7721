"""Where weights come from when no checkpoint has them: fresh models, missing keys, buffers outside the checkpoint.

`from_pretrained` builds on the meta device and fills what is missing through `_init_weights` alone, so a tensor that
`_init_weights` forgets holds whatever the memory held. Poisoned memory shows every such tensor.
"""

import re

import torch
from common_contract import ModelUnderTest, assert_same, is_poisoned, poisoned_memory, run, tensors_of_model


class InitializationTests(ModelUnderTest):
    def _from_state(self, state: dict[str, torch.Tensor], **options):
        # Copies: the model takes the tensors themselves, and what overwrites them would overwrite the reference too.
        copies = {name: tensor.clone() for name, tensor in state.items()}
        with poisoned_memory():
            return self.model_class.from_pretrained(None, config=self.make_config(), state_dict=copies, **options)

    def test_nothing_is_left_uninitialised_without_any_weights(self):
        torch.manual_seed(0)
        loaded = self._from_state({})
        assert [name for name, tensor in tensors_of_model(loaded).items() if is_poisoned(tensor)] == []

    def test_nothing_is_left_uninitialised_in_a_fresh_model(self):
        with poisoned_memory():
            model = self.build()
        assert [name for name, tensor in tensors_of_model(model).items() if is_poisoned(tensor)] == []

    def test_missing_weights_start_as_in_a_fresh_model(self):
        """Same constants and same spread by either way: nothing keeps a torch default that `_init_weights` should replace."""
        fresh = tensors_of_model(self.build())
        torch.manual_seed(1)
        loaded = tensors_of_model(self._from_state({}))
        assert fresh.keys() == loaded.keys()
        for name, tensor in fresh.items():
            other = loaded[name]
            assert other.shape == tensor.shape and other.dtype == tensor.dtype, name
            if not tensor.is_floating_point() or tensor.unique().numel() == 1:
                assert torch.equal(tensor, other), name
            elif tensor.numel() >= 256:
                assert 0.75 < other.std() / tensor.std() < 1.33, name
                assert (other.mean() - tensor.mean()).abs() < 0.35 * tensor.std(), name

    def test_start_is_finite_and_varied(self):
        reasons = self.constant_at_start
        constant = []
        for name, tensor in tensors_of_model(self.build()).items():
            assert tensor.isfinite().all(), name
            if tensor.numel() > 1 and tensor.unique().numel() == 1:
                constant.append(name)
        unexplained = [n for n in constant if not any(re.search(p, n) for p in reasons)]
        assert unexplained == []
        unused = [p for p in reasons if not any(re.search(p, n) for n in constant)]
        assert unused == [], "these reasons explain no tensor"

    def test_start_follows_the_seed(self):
        first, again, other = (self.build(seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)

    def test_loaded_weights_are_not_overwritten_and_missing_ones_are_filled(self):
        """Both halves of the keys in turn, because a parent's `_init_weights` may touch a child's loaded weight."""
        state = self.make_model().state_dict()
        for parity in (0, 1):
            kept = {key: value for i, (key, value) in enumerate(state.items()) if i % 2 == parity}
            loaded = self._from_state(kept)
            now = loaded.state_dict()
            changed = [key for key, value in kept.items() if not torch.equal(now[key], value)]
            assert changed == []
            assert [name for name, tensor in tensors_of_model(loaded).items() if is_poisoned(tensor)] == []

    def test_buffers_outside_the_checkpoint_are_restored(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path)
        with poisoned_memory():
            loaded = self.model_class.from_pretrained(tmp_path)
        built, read = dict(model.named_buffers()), dict(loaded.named_buffers())
        assert built.keys() == read.keys()
        assert [name for name in built if not torch.equal(built[name], read[name])] == []
        assert_same(run(loaded, self.make_inputs()), run(model, self.make_inputs()))

    def test_weights_of_other_shape_start_anew_only_when_allowed(self):
        """`ignore_mismatched_sizes`: the one ill-fitting weight is initialised, all others are loaded."""
        state = self.make_model().state_dict()
        name = max((k for k, v in state.items() if v.is_floating_point()), key=lambda k: state[k].numel())
        ill = {**state, name: torch.zeros([size + 1 for size in state[name].shape])}
        loaded, info = self._from_state(ill, ignore_mismatched_sizes=True, output_loading_info=True)
        assert [entry[0] for entry in info["mismatched_keys"]] == [name]
        now = loaded.state_dict()
        assert not is_poisoned(now[name])
        assert [key for key in state if key != name and not torch.equal(now[key], state[key])] == []
