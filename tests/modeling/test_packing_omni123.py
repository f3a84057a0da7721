"""A packed row gives each document what a row of its own gives: states, loss and gradients."""

import pytest
import torch
import torch.nn.functional as F
from tiny_omni123 import make_config, make_model, make_sequence, make_text

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import TASKS, Sequence
from omni123_hf.modeling.packing_omni123 import CONDITIONING_MULTIPLE, pack_sequences


NAMES = ("text-to-3d", "image-to-3d", "edit-3d", "text-to-images-to-3d-to-images", "image-to-posed-image")


def documents(names=NAMES):
    """Single sequences, their text `(D, ...)`, and flags: one document without text, one without text and prefix."""
    config = make_config()
    sequences = []
    for number, name in enumerate(names):
        batch = make_sequence(name, config, batch=1, seed=number)
        sequences.append(Sequence(batch.ids[0], batch.labels[0], batch.prefix_length))
    text = {key: value[torch.arange(len(names)) % 2] for key, value in make_text().items()}
    text["text_embeds"] = torch.randn(len(names), 4, 10, generator=torch.Generator().manual_seed(5))
    null = torch.tensor([number in (1, 2) for number in range(len(names))])
    drop = torch.tensor([number == 2 for number in range(len(names))])
    return config, sequences, {**text, "null_text": null, "drop_prefix": drop}


def packed_inputs(config, sequences, inputs, multiple):
    row = pack_sequences(sequences, config.pad_id, multiple)
    return {
        "input_ids": row.input_ids,
        "labels": row.labels,
        "document_ids": row.document_ids,
        "prefix_length": row.prefix_length,
        **inputs,
    }


def alone(model, sequences, inputs, number):
    one = {key: value[number : number + 1] for key, value in inputs.items()}
    sequence = sequences[number]
    if not sequence.prefix_length:
        one.pop("drop_prefix")
    return model(sequence.ids[None], labels=sequence.labels[None], prefix_length=sequence.prefix_length, **one)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_document_has_the_states_of_a_row_of_its_own(implementation, causal):
    config, sequences, inputs = documents()
    model = make_model(implementation=implementation, text_causal=causal)
    with torch.no_grad():
        packed = model(**packed_inputs(config, sequences, inputs, 16)).last_hidden_state[0]
        start = 0
        for number in range(len(sequences)):
            states = alone(model, sequences, inputs, number).last_hidden_state[0]
            torch.testing.assert_close(packed[start : start + len(states)], states, atol=1e-5, rtol=0)
            start += len(states)
    assert len(packed) % 16 == 0 and len(packed) > start


def test_loss_and_gradients_are_those_of_the_rows_together():
    config, sequences, inputs = documents(tuple(TASKS))
    model = make_model()
    total = sum(int((sequence.labels != -100).sum()) for sequence in sequences)
    for number in range(len(sequences)):
        one = alone(model, sequences, inputs, number)
        (one.loss * int((sequences[number].labels != -100).sum()) / total).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    packed = model(**packed_inputs(config, sequences, inputs, 1))
    packed.loss.backward()
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(
                parameter.grad, wanted[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n} {m}"
            )


def test_a_documents_states_do_not_depend_on_its_neighbours():
    config, sequences, inputs = documents()
    model = make_model()
    with torch.no_grad():
        before = model(**packed_inputs(config, sequences, inputs, 1)).last_hidden_state[0]
        changed = Sequence((sequences[0].ids + 1) % 5, sequences[0].labels, 0)
        other = {**inputs, "text_embeds": inputs["text_embeds"].clone()}
        other["text_embeds"][0] += 1
        after = model(**packed_inputs(config, [changed, *sequences[1:]], other, 1)).last_hidden_state[0]
    length = len(changed.ids)
    assert torch.equal(before[length:], after[length:])
    assert not torch.allclose(before[:length], after[:length])


def test_sdpa_attends_document_by_document_and_not_over_the_square_of_the_row(monkeypatch):
    config, sequences, inputs = documents()
    row = packed_inputs(config, sequences, inputs, 16)
    shapes = []

    def recorded(query, key, value, **kwargs):
        shapes.append((query.shape[0], query.shape[2], key.shape[2]))
        return scaled_dot_product_attention(query, key, value, **kwargs)

    scaled_dot_product_attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    model = make_model()
    model(**row)
    longest = max(len(sequence.ids) for sequence in sequences)
    text = 4 + inputs["text_embeds_2"].shape[1]
    # A row of its own for each document, and none for the padding at the end.
    assert {rows for rows, _, _ in shapes} == {len(sequences)}
    assert shapes[-1][1:] == (longest, longest) and max(keys for _, _, keys in shapes) <= longest + 2 * text


def test_padding_of_the_text_is_left_out_and_changes_nothing():
    config, sequences, inputs = documents()
    model = make_model()
    row = packed_inputs(config, sequences, inputs, 1)
    length = inputs["text_embeds_2"].shape[1]
    wide = {
        **row,
        "text_embeds_2": F.pad(inputs["text_embeds_2"], (0, 0, 0, 90), value=7.0),
        "text_attention_mask_2": F.pad(inputs["text_attention_mask_2"], (0, 90)),
    }
    assert wide["text_embeds_2"].shape[1] == length + 90
    outputs = [model(**given) for given in (row, wide)]
    torch.testing.assert_close(outputs[1].last_hidden_state, outputs[0].last_hidden_state, atol=1e-5, rtol=0)
    # Five documents with 4 + 90 and more positions each, of which few are text.
    assert outputs[1].conditioning_mask.shape == (1, CONDITIONING_MULTIPLE)
    valid = (4 + inputs["text_attention_mask_2"].sum(1)).masked_fill(inputs["null_text"], 1)
    assert int(outputs[1].conditioning_mask.sum()) == int(valid.sum())


def test_what_cannot_be_packed_is_refused():
    config, sequences, inputs = documents()
    model = make_model()
    row = packed_inputs(config, sequences, inputs, 1)
    with pytest.raises(Omni123Error, match="no cache"):
        model(**{**row, "labels": None}, use_cache=True)
    with pytest.raises(Omni123Error, match="ascend"):
        model(**{**row, "document_ids": row["document_ids"].flip(1)})
    with pytest.raises(Omni123Error, match="one row"):
        model(**{**row, "document_ids": row["document_ids"][:, 1:]})
    with pytest.raises(Omni123Error, match="text_embeds or null_text"):
        model(row["input_ids"], document_ids=row["document_ids"])
    with pytest.raises(Omni123Error, match="each of 5 rows"):
        model(**{**row, "null_text": row["null_text"][:2]})
    with pytest.raises(Omni123Error, match="single sequences"):
        pack_sequences([], 0)
