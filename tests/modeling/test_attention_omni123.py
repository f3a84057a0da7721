"""The attention implementations agree, whatever the task; who sees whom is written once."""

import pytest
import torch
from tiny_omni123 import KS, make_config, make_model, make_sequence, make_text

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import TASKS, Omni123ForConditionalGeneration
from omni123_hf.modeling.blocks_omni123 import rotary_tables, rotate
from omni123_hf.modeling.masking import VisibilityRule, build_masks


IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def inputs_of(name: str, drop: bool) -> tuple[torch.Tensor, dict]:
    sequence = make_sequence(name, make_config())
    rows = torch.tensor([False, True])
    kwargs = {**make_text(), "prefix_length": sequence.prefix_length, "null_text": rows}
    return sequence.ids, {**kwargs, "drop_prefix": rows} if drop else kwargs


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("drop", [False, True])
def test_implementations_agree_on_every_task(name, drop):
    ids, kwargs = inputs_of(name, drop)
    with torch.no_grad():
        hidden = {i: make_model(implementation=i)(ids, **kwargs).last_hidden_state for i in IMPLEMENTATIONS}
    for other in ("eager", "flex_attention"):
        torch.testing.assert_close(hidden[other], hidden["sdpa"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_equal_the_rule_spelled_out(is_cached, causal):
    """Loops over every pair, written from the module's first lines rather than from its code."""
    valid = torch.tensor([[True, True, False], [True, False, False]])
    prefix, drop = torch.tensor([2, 4]), torch.tensor([True, False])
    past, new = (4, 3) if is_cached else (0, 7)
    rule = VisibilityRule(valid, past, prefix, drop, causal)
    masks = build_masks(rule, new, past + new, is_cached)
    rows, width = valid.shape

    def generation(row: int, query: int, key: int) -> bool:
        if query < prefix[row]:
            return key < prefix[row]
        return key <= query and not (drop[row] and key < prefix[row])

    def text(row: int, query: int, key: int) -> bool:
        return query == key or bool(valid[row, key] and (key <= query or not causal))

    for row in range(rows):
        for query in range(new):
            absolute = query + past
            for key in range(past + new):
                expected = bool(generation(row, absolute, key))
                assert masks.single[row, 0, query, key] == expected
                assert masks.last_dual[row, 0, query, width + key] == expected
            assert torch.equal(masks.last_dual[row, 0, query, :width], valid[row])
        if is_cached:
            assert masks.dual is masks.last_dual
            continue
        assert torch.equal(masks.dual[row, 0, width:], masks.last_dual[row, 0])
        for query in range(width):
            assert masks.dual[row, 0, query, :width].tolist() == [text(row, query, key) for key in range(width)]
            assert not masks.dual[row, 0, query, width:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_to_rotate_agree(monkeypatch, dtype):
    """One complex product, or four real ones where the compiler would fuse them: values and gradients."""
    # As the blocks hand it over: heads are a transposed view.
    source = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    rotation = rotary_tables(torch.arange(5), 8, 1000.0)
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda value=compiling: value)
        leaf = source.clone().requires_grad_()
        rotated = rotate(leaf.transpose(1, 2), rotation)
        (rotated.float() ** 3).sum().backward()
        results.append((rotated.detach(), leaf.grad))
    monkeypatch.undo()
    assert results[0][0].dtype == dtype and results[0][0].shape == (2, 3, 5, 8)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    # The pair (0, 1) of position 3 turns by 3 radians: its frequency is 1.
    first = source[0, 3, 0, :2].float()
    cos, sin = torch.cos(torch.tensor(3.0)), torch.sin(torch.tensor(3.0))
    expected = torch.stack([first[0] * cos - first[1] * sin, first[0] * sin + first[1] * cos]).to(dtype)
    torch.testing.assert_close(results[0][0][0, 0, 3, :2], expected, atol=1e-6, rtol=1e-2)


def test_flex_attention_refuses_to_train_on_the_cpu():
    ids, kwargs = inputs_of("image-to-3d", drop=False)
    with pytest.raises(Omni123Error, match="no backward pass on the CPU"):
        make_model(implementation="flex_attention")(ids, **kwargs)


def test_flash_attention_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'flash_attention_2' cannot run this model's bidirectional prefix"):
        make_model(implementation="flash_attention_2")
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="flash"):
        Omni123ForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


def test_rows_of_mixed_prefix_lengths_equal_the_rows_alone():
    model = make_model()
    sequence = make_sequence("image-to-3d", model.config)
    text = make_text()
    lengths = torch.tensor([2, sequence.prefix_length])
    with torch.no_grad():
        together = model(sequence.ids, **text, prefix_length=lengths).last_hidden_state
        for row, length in enumerate(lengths.tolist()):
            one = {key: value[row : row + 1] for key, value in text.items()}
            alone = model(sequence.ids[row : row + 1], **one, prefix_length=length).last_hidden_state
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(
        together[0], model(sequence.ids, **text, prefix_length=5).last_hidden_state[0], atol=1e-3
    )


def test_hidden_states_and_attentions_on_request():
    model = make_model(implementation="eager")
    ids, kwargs = inputs_of("image-to-3d", drop=False)
    with torch.no_grad():
        output = model(ids, **kwargs, output_hidden_states=True, output_attentions=True)
    rows, length = ids.shape
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    assert all(state.shape == (rows, length, model.config.hidden_size) for state in output.hidden_states)
    assert torch.equal(output.hidden_states[0], model.embed_ids(ids))
    width = output.conditioning_mask.shape[1]
    shapes = [tuple(weights.shape[2:]) for weights in output.attentions]
    # The conditioning of the last dual block asks nothing.
    assert shapes == [(width + length,) * 2, (length, width + length), (length, length), (length, length)]
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    plain = model(ids, **kwargs)
    assert plain.hidden_states is None and plain.attentions is None
    with pytest.raises(Omni123Error, match="attn_implementation='eager'"):
        make_model()(ids, **kwargs, output_attentions=True)


def test_tuples_hold_the_same_as_the_output_class():
    model = make_model()
    ids, kwargs = inputs_of("image-to-3d", drop=False)
    with torch.no_grad():
        output, values = model(ids, **kwargs), model(ids, **kwargs, return_dict=False)
    assert isinstance(values, tuple)
    assert all(torch.equal(a, b) for a, b in zip(output.to_tuple(), values, strict=True))
    assert output.shape_logits.shape[-1] == KS
