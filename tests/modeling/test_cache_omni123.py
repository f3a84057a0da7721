"""Static caches: equal to dynamic ones to the bit, of fixed size, and fit for one compiled graph."""

import copy
import functools

import pytest
import torch
from test_generation_omni123 import make_plan, record_logits
from tiny_omni123 import LS, make_model, make_sequence, make_text
from transformers import DynamicCache, StaticCache

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import TASKS, generation_omni123, generation_plan, get_task


@pytest.fixture(scope="module")
def model():
    return make_model()


def generate(model, name: str, drops: str = "text", **settings):
    logits, handles = record_logits(model)
    try:
        codes = model.generate_plan(make_plan(name, model.config), **make_text(), guidance_drops=drops, **settings)
    finally:
        for handle in handles:
            handle.remove()
    return codes, logits


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("drops", ["text", "text_and_prefix"])
def test_static_equals_dynamic_to_the_bit(model, name, drops):
    (dynamic, expected), (static, found) = (
        generate(model, name, drops, cache_implementation=kind) for kind in ("dynamic", "static")
    )
    assert len(expected) == len(found) > 0
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(torch.equal(dynamic[key], static[key]) for key in dynamic)


@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_static_equals_dynamic_with_other_attention(implementation):
    model = make_model(implementation=implementation)
    runs = [generate(model, "image-to-3d", cache_implementation=kind)[1] for kind in ("dynamic", "static")]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def decode(model, cache, ids: torch.Tensor) -> list[torch.Tensor]:
    """Prefill with three positions, then one at a time; the hidden states of every pass."""
    with torch.no_grad():
        output = model(ids[:, :3], **make_text(), past_key_values=cache, use_cache=True)
        states = [output.last_hidden_state]
        for position in range(3, ids.shape[1]):
            output = model(
                ids[:, position : position + 1],
                past_key_values=output.past_key_values,
                conditioning_mask=output.conditioning_mask,
            )
            states.append(output.last_hidden_state)
    return states


def test_the_three_cache_classes_agree_with_no_cache(model):
    ids = make_sequence("text-to-3d", model.config).ids
    width = 10
    own = model.make_static_cache(width, ids.shape[1])
    runs = [
        decode(model, cache, ids)
        for cache in (DynamicCache(), own, StaticCache(config=model.config, max_cache_len=width + ids.shape[1] + 3))
    ]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*runs, strict=True))
    with torch.no_grad():
        whole = model(ids, **make_text()).last_hidden_state
    torch.testing.assert_close(torch.cat(runs[0], dim=1), whole, atol=1e-5, rtol=0)
    lengths = [layer.keys.shape[2] for layer in own.layers]
    assert lengths == [width + ids.shape[1]] * 2 + [ids.shape[1]] * 2


def test_a_full_cache_and_a_lost_mask_are_named(model):
    ids = make_sequence("text-to-3d", model.config).ids
    with pytest.raises(Omni123Error, match="room for 4 positions and 6 are wanted"):
        model(ids, **make_text(), past_key_values=model.make_static_cache(10, 4), use_cache=True)
    output = model(ids[:, :2], **make_text(), use_cache=True)
    with pytest.raises(Omni123Error, match="needs the conditioning_mask"):
        model(ids[:, 2:3], past_key_values=output.past_key_values)
    with pytest.raises(Omni123Error, match="pass past_key_values with it"):
        model(ids[:, 2:3], conditioning_mask=output.conditioning_mask)
    with pytest.raises(Omni123Error, match="cache_implementation is 'paged'"):
        generate(model, "text-to-3d", cache_implementation="paged")
    with pytest.raises(Omni123Error, match="compile_decode needs"):
        generate(model, "text-to-3d", compile_decode=True)


def test_decoding_is_one_full_graph(model):
    """No graph break, and no new graph from step to step: the one graph serves every position."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    step = torch.compile(model.forward, fullgraph=True, dynamic=False, backend=backend)
    ids = make_sequence("text-to-3d", model.config).ids
    cache = model.make_static_cache(10, ids.shape[1])
    with torch.no_grad():
        output = model(ids[:, :1], **make_text(), past_key_values=cache, use_cache=True)
        mask, states = output.conditioning_mask, [output.last_hidden_state]
        for position in range(1, LS + 1):
            output = step(
                input_ids=ids[:, position : position + 1],
                past_key_values=cache,
                conditioning_mask=mask,
                modality="shape",
                logits_to_keep=1,
            )
            states.append(output.last_hidden_state)
        whole = model(ids, **make_text()).last_hidden_state
    torch.testing.assert_close(torch.cat(states, dim=1), whole, atol=1e-5, rtol=0)
    assert len(graphs) == 1


@pytest.fixture
def counted_graphs(monkeypatch):
    """Compiles without a compiler, and counts the graphs."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        generation_omni123,
        "_compile_class",
        functools.cache(lambda cls: torch.compile(cls.forward, fullgraph=True, dynamic=False, backend=backend)),
    )
    return graphs


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_one_graph_decodes_a_whole_segment(counted_graphs, guidance):
    model = make_model(num_shape_tokens=14)
    plan = generation_plan(get_task("text-to-3d"), model.config)
    settings = {"guidance_scale": guidance, "cache_implementation": "static"}
    compiled = model.generate_plan(plan, **make_text(), compile_decode=True, **settings)["shape"]
    assert torch.equal(compiled, model.generate_plan(plan, **make_text(), **settings)["shape"])
    assert len(counted_graphs) == 1


def test_many_prompt_lengths_and_copies_compile_too(counted_graphs):
    """More graphs than torch's default limit of 8, and a copy that does not decode with the original's weights."""
    model = make_model()
    plan = generation_plan(get_task("text-to-3d"), model.config)
    for length in range(1, 11):
        text = {**make_text(), "text_embeds": torch.randn(2, length, 10)}
        model.generate_plan(plan, **text, cache_implementation="static", compile_decode=True)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.shape_head.weight.copy_(twin.shape_head.weight.flip(0))
    plain = twin.generate_plan(plan, **make_text())["shape"]
    assert not torch.equal(plain, model.generate_plan(plan, **make_text())["shape"])
    compiled = twin.generate_plan(plan, **make_text(), cache_implementation="static", compile_decode=True)["shape"]
    assert torch.equal(plain, compiled)


@pytest.mark.slow
def test_compiled_decoding_gives_the_same_codes(model):
    """With the default backend, which needs a C++ compiler on the CPU."""
    torch._dynamo.reset()
    plain, _ = generate(model, "text-to-image-to-3d")
    compiled = model.generate_plan(
        make_plan("text-to-image-to-3d", model.config),
        **make_text(),
        cache_implementation="static",
        compile_decode=True,
    )
    assert all(torch.equal(plain[key], compiled[key]) for key in plain)
