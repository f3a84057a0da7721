"""The autoregressive model: masks, loss, saving, gradients, sizes."""

import pytest
import torch
import torch.nn.functional as F
from tiny_omni123 import KI, KS, make_config, make_model, make_sequence, make_text
from transformers import AutoConfig, AutoModel

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import Omni123Config, Omni123ForConditionalGeneration


@pytest.fixture(scope="module")
def model() -> Omni123ForConditionalGeneration:
    return make_model()


def hidden(model, ids, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, **kwargs).last_hidden_state


def test_prefix_is_bidirectional_and_targets_are_causal(model):
    sequence = make_sequence("image-to-3d", model.config)
    prefix = sequence.prefix_length
    kwargs = {**make_text(), "prefix_length": prefix}
    before = hidden(model, sequence.ids, **kwargs)

    def changed(position: int) -> torch.Tensor:
        ids = sequence.ids.clone()
        ids[:, position] = (ids[:, position] + 1) % 3 + (KS if position < prefix else 0)
        assert not torch.equal(ids, sequence.ids)
        return (hidden(model, ids, **kwargs) - before).abs().amax(dim=(0, 2))

    last_of_prefix = changed(prefix - 1)
    assert (last_of_prefix > 1e-3).all()
    target = changed(prefix + 3)
    assert target[: prefix + 3].max() == 0
    assert (target[prefix + 3 :] > 1e-3).all()


def test_without_a_prefix_everything_is_causal(model):
    sequence = make_sequence("text-to-3d", model.config)
    before = hidden(model, sequence.ids, **make_text())
    ids = sequence.ids.clone()
    ids[:, -1] = (ids[:, -1] + 1) % KS
    after = hidden(model, ids, **make_text())
    assert torch.equal(after[:, :-1], before[:, :-1]) and not torch.equal(after, before)


def test_dropped_prefix_is_unseen_by_targets(model):
    sequence = make_sequence("image-to-3d", model.config)
    prefix = sequence.prefix_length
    kwargs = {**make_text(), "prefix_length": prefix, "drop_prefix": torch.tensor([True, False])}
    before = hidden(model, sequence.ids, **kwargs)
    ids = sequence.ids.clone()
    ids[:, 2] = KS + (ids[:, 2] - KS + 1) % KI
    difference = (hidden(model, ids, **kwargs) - before)[:, prefix:].abs().amax(dim=(1, 2))
    assert difference[0] == 0 and difference[1] > 1e-3


def test_conditioning_does_not_see_generation_but_is_seen(model):
    """The conditioning keys that are cached must not depend on ids; the hidden states must depend on the text."""
    text = make_text()
    a, b = (make_sequence("text-to-3d", model.config, seed=s).ids for s in (2, 3))
    caches = [model(ids, **text, use_cache=True).past_key_values for ids in (a, b)]
    length = 4 + 6
    for layer in range(model.config.num_dual_layers):
        keys = [cache.layers[layer].keys for cache in caches]
        assert torch.equal(keys[0][:, :, :length], keys[1][:, :, :length])
        assert not torch.equal(keys[0], keys[1])
    assert caches[0].layers[model.config.num_dual_layers].keys.shape[2] == a.shape[1]
    other = {**text, "text_embeds": text["text_embeds"].flip(0)}
    assert (hidden(model, a, **text) - hidden(model, a, **other)).abs().max() > 1e-3


def test_padded_text_is_unseen(model):
    text = make_text()
    ids = make_sequence("text-to-3d", model.config).ids
    other = {**text, "text_embeds_2": text["text_embeds_2"].clone()}
    other["text_embeds_2"][:, 4:] += torch.randn(12)
    difference = (hidden(model, ids, **text) - hidden(model, ids, **other)).abs().amax(dim=(1, 2))
    assert difference[0] == 0 and difference[1] > 1e-3


@pytest.mark.parametrize("causal", [True, False])
def test_text_causality_is_a_config_field(causal):
    model = make_model(text_causal=causal)
    ids = make_sequence("text-to-3d", model.config).ids
    text = make_text()
    other = {**text, "text_embeds_2": text["text_embeds_2"].clone()}
    other["text_embeds_2"][:, 3] += torch.randn(12)
    first = [model(ids, **t, use_cache=True).past_key_values.layers[1].keys[:, :, :4] for t in (text, other)]
    assert torch.equal(first[0], first[1]) == causal


def test_null_text_is_independent_of_the_prompt(model):
    ids = make_sequence("text-to-3d", model.config).ids
    null = torch.ones(2, dtype=torch.bool)
    a = hidden(model, ids, **make_text(seed=1), null_text=null)
    b = hidden(model, ids, **make_text(seed=5), null_text=null)
    torch.testing.assert_close(a, b, atol=0, rtol=0)
    torch.testing.assert_close(a, hidden(model, ids), atol=1e-5, rtol=1e-5)  # No text at all: one position only.
    assert (a - hidden(model, ids, **make_text())).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["text-to-image-to-3d", "image-to-3d", "text-to-images-to-3d-to-images"])
def test_loss_equals_a_naive_full_logits_loss(model, name):
    sequence = make_sequence(name, model.config)
    kwargs = {**make_text(), "prefix_length": sequence.prefix_length}
    output = model(sequence.ids, labels=sequence.labels, **kwargs)
    full = model(sequence.ids, **kwargs)
    terms: dict[str, list[torch.Tensor]] = {"shape": [], "image": []}
    for row in range(2):
        for t in range(sequence.ids.shape[1] - 1):
            label = int(sequence.labels[row, t + 1])
            if 0 <= label < KS:
                terms["shape"].append(F.cross_entropy(full.shape_logits[row, t], torch.tensor(label)))
            elif label >= KS:
                terms["image"].append(F.cross_entropy(full.image_logits[row, t], torch.tensor(label - KS)))
    every = torch.stack(terms["shape"] + terms["image"])
    torch.testing.assert_close(output.loss, every.mean())
    assert output.shape_logits is None and output.image_logits is None
    for key, value in (("shape", output.shape_loss), ("image", output.image_loss)):
        if terms[key]:
            torch.testing.assert_close(value, torch.stack(terms[key]).mean())
            assert not value.requires_grad
        else:
            assert value is None
    scaled = model(sequence.ids, labels=sequence.labels, num_items_in_batch=2 * len(every), **kwargs)
    torch.testing.assert_close(scaled.loss, every.mean() / 2)


def test_labels_that_are_no_codes_are_refused(model):
    sequence = make_sequence("text-to-3d", model.config)
    labels = sequence.labels.clone()
    labels[:, 2] = model.config.image_start_id
    with pytest.raises(Omni123Error, match="2 labels are no codes"):
        model(sequence.ids, labels=labels, **make_text())
    with pytest.raises(Omni123Error, match="no target"):
        model(sequence.ids, labels=torch.full_like(labels, -100), **make_text())


def test_token_dropout_acts_in_training_only():
    model = make_model()
    sequence = make_sequence("text-to-3d", model.config)
    kwargs = {**make_text(), "labels": sequence.labels}
    evaluated = model(sequence.ids, **kwargs).loss
    assert torch.equal(evaluated, model(sequence.ids, **kwargs).loss)
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(evaluated, model(sequence.ids, **kwargs).loss)
    # A start token is never dropped, so the state at position 0 is that of evaluation.
    dropped = model(sequence.ids, **kwargs).last_hidden_state[:, 0]
    torch.testing.assert_close(dropped, model.eval()(sequence.ids, **kwargs).last_hidden_state[:, 0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(checkpointing):
    model = make_model(use_bbox=True).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    torch.manual_seed(0)
    sequence = make_sequence("text-to-images-to-3d-to-images", model.config)
    null = torch.tensor([False, True])
    model(sequence.ids, labels=sequence.labels, null_text=null, bbox=torch.rand(2, 3), **make_text()).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_one_modality_still_gives_every_parameter_a_gradient():
    """DDP waits for all parameters, also in a batch without images."""
    model = make_model().train()
    sequence = make_sequence("text-to-3d", model.config)
    null = torch.tensor([False, True])
    model(sequence.ids, labels=sequence.labels, null_text=null, **make_text()).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert model.image_head.weight.grad.abs().max() == 0


@pytest.mark.parametrize("changes", [{}, {"null_condition": "empty_prompt", "use_bbox": True, "token_dropout": 0.0}])
def test_save_and_load_keep_everything(tmp_path, changes):
    model = make_model(**changes)
    model.save_pretrained(tmp_path)
    sequence = make_sequence("image-to-3d", model.config)
    kwargs = {**make_text(), "prefix_length": sequence.prefix_length}
    assert isinstance(AutoConfig.from_pretrained(tmp_path), Omni123Config)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, Omni123ForConditionalGeneration)
    assert loaded.config.to_dict().keys() == model.config.to_dict().keys()
    state, again = model.state_dict(), loaded.state_dict()
    assert state.keys() == again.keys() and all(torch.equal(state[key], again[key]) for key in state)
    assert {"shape_code_table", "image_code_table"} <= state.keys()
    assert torch.equal(hidden(model, sequence.ids, **kwargs), hidden(loaded, sequence.ids, **kwargs))


def test_parameters_absent_from_a_checkpoint_are_initialised(tmp_path):
    """View embeddings and the like are added after pre-training; a meta-device load must not leave garbage."""
    model = make_model()
    model.save_pretrained(tmp_path)
    state = {k: v for k, v in model.state_dict().items() if k not in ("null_text_embed", "shape_code_table")}
    state["mask_embed"] = model.mask_embed.detach()
    loaded = Omni123ForConditionalGeneration.from_pretrained(None, config=model.config, state_dict=state)
    assert torch.equal(loaded.shape_code_table, torch.zeros(KS, 3))
    assert 0 < loaded.null_text_embed.std() < 1
    assert torch.equal(loaded.mask_embed, model.mask_embed)


def test_code_tables_are_checked_and_enter_the_embedding():
    model = make_model()
    with pytest.raises(Omni123Error, match="the model expects"):
        model.set_code_tables(shape=torch.zeros(KS + 1, 3))
    ids = torch.tensor([[0, KS, KS + KI]])
    before = model.embed_ids(ids)
    model.set_code_tables(image=model.image_code_table + 1.0)
    changed = (model.embed_ids(ids) - before).abs().amax(-1)[0]
    assert changed[0] == 0 and changed[1] > 1e-3 and changed[2] == 0
    plain = make_model(shape_code_dim=None, image_code_dim=0)
    assert torch.equal(plain.embed_ids(ids), plain.embed_tokens(ids))
    with pytest.raises(Omni123Error, match="no shape code table"):
        plain.set_code_tables(shape=torch.zeros(KS, 3))


def test_ill_fitting_inputs_are_named(model):
    ids = make_sequence("text-to-3d", model.config).ids
    text = make_text()
    with pytest.raises(Omni123Error, match="text_embeds is"):
        model(ids, **{**text, "text_embeds": torch.zeros(2, 4, 11)})
    with pytest.raises(Omni123Error, match="text_embeds_2 is missing"):
        model(ids, text_embeds=text["text_embeds"])
    with pytest.raises(Omni123Error, match="takes no bounding box"):
        model(ids, **text, bbox=torch.zeros(2, 3))
    with pytest.raises(Omni123Error, match="must enter in one uncached pass"):
        model(ids, **text, prefix_length=ids.shape[1] + 1)
    with pytest.raises(Omni123Error, match="outside 0 to 6"):
        model(ids, **text, prefix_length=torch.tensor([-1, 2]))
    with pytest.raises(Omni123Error, match="one for each of 2 rows"):
        model(ids, **text, prefix_length=torch.tensor([1, 2, 3]))
    with pytest.raises(Omni123Error, match="drop_prefix needs prefix_length"):
        model(ids, **text, drop_prefix=torch.tensor([True, False]))
    with pytest.raises(Omni123Error, match="null_text is"):
        model(ids, **text, null_text=torch.tensor([1, 0]))
    with pytest.raises(Omni123Error, match=r"text_attention_mask_2 is \(2, 5\)"):
        model(ids, **{**text, "text_attention_mask_2": torch.ones(2, 5)})
    with pytest.raises(Omni123Error, match=r"bbox is \(3,\)"):
        make_model(use_bbox=True)(ids, **text, bbox=torch.zeros(3))
    with pytest.raises(Omni123Error, match="null_condition 'empty_prompt'"):
        make_model(null_condition="empty_prompt")(ids, **text, null_text=torch.tensor([True, False]))
    with pytest.raises(ValueError, match="rotary pairs"):
        make_config(head_dim=5)


@pytest.mark.parametrize(
    "ids, message",
    [
        ([[0, -1]], "input_ids reach from -1 to 0: this model has ids 0 to 30"),
        ([[0, 31]], "input_ids reach from 0 to 31"),
        ([0, 1], "give flat integer ids"),
        ([[0.0, 1.0]], "torch.float32"),
        ([[True, False]], "torch.bool"),
        ([[]], "give flat integer ids"),
    ],
)
def test_ids_out_of_range_are_named(model, ids, message):
    with pytest.raises(Omni123Error, match=message):
        model(torch.tensor(ids))


def test_labels_and_modalities_that_do_not_fit_are_named(model):
    ids = torch.tensor([[KS + KI, 0, 1]])
    with pytest.raises(Omni123Error, match="labels reach from 31"):
        model(ids, labels=torch.tensor([[-100, 31, 31]]))
    with pytest.raises(Omni123Error, match=r"labels are \(1, 2\)"):
        model(ids, labels=ids[:, :2])
    with pytest.raises(Omni123Error, match="modality 'sound' has no head in this model: use 'shape', 'image' or None"):
        model(ids, modality="sound")
    shapes_only = make_model(num_image_codes=0, image_code_dim=0, shape_code_dim=0)
    with pytest.raises(Omni123Error, match="modality 'image' has no head in this model: use 'shape' or None"):
        shapes_only(torch.tensor([[0]]), modality="image")


def test_the_vocabulary_cannot_be_resized_but_views_can(model):
    assert model.resize_token_embeddings() is model.embed_tokens
    assert model.resize_token_embeddings(model.config.vocab_size) is model.embed_tokens
    with pytest.raises(Omni123Error, match="laid out by the config"):
        model.resize_token_embeddings(100)
    with pytest.raises(Omni123Error, match="tie_word_embeddings cannot be True"):
        make_config(tie_word_embeddings=True)
    grown = make_model(num_views=0)
    before = grown.embed_tokens.weight.detach().clone()
    grown.resize_view_embeddings(6)
    assert grown.config.vocab_size == grown.embed_tokens.num_embeddings == len(before) + 6
    assert torch.equal(grown.embed_tokens.weight[: len(before)], before)
    assert (grown.embed_tokens.weight[len(before) :].std(dim=1) > 0).all()
    sequence = make_sequence("text-to-posed-image", grown.config)
    grown(sequence.ids, labels=sequence.labels, **make_text()).loss.backward()
    assert grown.embed_tokens.weight.grad[grown.config.view_offset].abs().max() > 0
    with pytest.raises(Omni123Error, match="cannot be negative"):
        grown.resize_view_embeddings(-1)


def test_inputs_that_would_be_ignored_are_refused(model):
    ids = make_sequence("text-to-3d", model.config).ids
    text = make_text()
    with pytest.raises(Omni123Error, match="input_ids are a list"):
        model([[0, 1]])
    with pytest.raises(Omni123Error, match="length at least 1"):
        model(ids, **{**text, "text_embeds": text["text_embeds"][:, :0]})
    with pytest.raises(Omni123Error, match="takes no bounding box"):
        model(ids, bbox=torch.zeros(2, 3))
    with pytest.raises(Omni123Error, match="without text_embeds_2"):
        model(ids, text_attention_mask_2=text["text_attention_mask_2"])
    with pytest.raises(Omni123Error, match="every row is unconditional"):
        model(ids, null_text=torch.tensor([True, False]))
    output = model(ids[:, :2], **text, use_cache=True)
    cached = {"past_key_values": output.past_key_values, "conditioning_mask": output.conditioning_mask}
    with pytest.raises(Omni123Error, match="takes no text"):
        model(ids[:, 2:3], **cached, **text)
    with pytest.raises(Omni123Error, match="one row for each of 2 rows"):
        model(ids[:, 2:3], **{**cached, "conditioning_mask": output.conditioning_mask[:1]})
    # int32 ids and labels are as good as int64.
    sequence = make_sequence("text-to-3d", model.config)
    losses = [model(sequence.ids.to(d), labels=sequence.labels.to(d), **text).loss for d in (torch.int32, torch.int64)]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shape_code_dim": -1}, "shape_code_dim is -1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ],
)
def test_sizes_that_form_no_model_are_refused(changes, message):
    with pytest.raises(Omni123Error, match=message):
        make_config(**changes)
