"""The fast decoder against the plain loop: the same codes, the same draws, and nothing stale."""

import copy
import gc
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_generation_omni123 import make_plan
from tiny_omni123 import KI, KS, LS, make_model, make_text

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import TASKS, Omni123ForConditionalGeneration, Step, generation_plan, get_task
from omni123_hf.modeling import generation_fast_omni123 as fast
from omni123_hf.modeling.decoder_omni123 import FastDecoder
from omni123_hf.modeling.decoder_weights_omni123 import Int8DynamicLinear, Int8Linear, PackedLinear


MINI = Path(__file__).parents[2] / "checkpoints" / "omni123-mini" / "transformer"


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="module")
def mini():
    return Omni123ForConditionalGeneration.from_pretrained(MINI).eval()


def assert_same(first, second):
    assert first.keys() == second.keys() and first
    for name in first:
        assert torch.equal(first[name], second[name]), name


def both(model, plan, text, seed=None, **settings):
    """Codes of the plain and of the fast engine."""
    runs = []
    for engine in ("plain", "fast"):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        runs.append(model.generate_plan(plan, **text, engine=engine, generator=generator, **settings))
    return runs


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("drops", ["text", "text_and_prefix"])
def test_every_task_gives_the_plain_codes(model, drops, static):
    """Drawn at temperature 1, so that equal codes mean nearly equal logits and equal use of the generator."""
    fast._decoders[model] = FastDecoder(model, static=static)
    for name in TASKS:
        for samples in (1, 3):
            settings = dict(guidance_drops=drops, num_samples=samples, temperature=1.0, seed=3)
            plain, found = both(model, make_plan(name, model.config), make_text(), guidance_scale=3.0, **settings)
            assert_same(plain, found)
    assert fast.decoder_of(model).static is static


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_scale": 1.0},
        {"guidance_schedule": "linear_decay"},
        {"temperature": 0.7, "top_k": 5, "seed": 0},
        {"temperature": 1.2, "top_p": 0.8, "seed": 1},
        {"guidance_scale": 0.0},
    ],
)
def test_settings_mean_the_same(model, settings):
    assert_same(*both(model, make_plan("text-to-image-to-3d", model.config), make_text(), **settings))


def test_a_bonus_means_the_same(model):
    liked = torch.randint(KS, (2, LS), generator=torch.Generator().manual_seed(4))
    plan = [
        replace(step, favoured=liked, bonus=0.7) if step.action == "sample" else step
        for step in make_plan("edit-3d", model.config)
    ]
    plain, found = both(model, plan, make_text(), seed=5, temperature=1.0, num_samples=3, guidance_scale=2.0)
    assert_same(plain, found)
    assert (plain["shape"] == liked.repeat_interleave(3, dim=0)).any()


def test_a_thousand_greedy_codes_equal_the_plain_ones():
    model = make_model(num_shape_tokens=1024, num_shape_codes=500, num_dual_layers=1, num_single_layers=1)
    plan = generation_plan(get_task("text-to-3d"), model.config)
    plain, found = both(model, plan, make_text(1))
    assert plain["shape"].shape == (1, 1024) and len(plain["shape"].unique()) > 20
    assert_same(plain, found)
    # Static steps, past the end of a bucket.
    fast._decoders[model] = FastDecoder(model, static=True)
    short = [plan[0], Step("sample", modality="shape", count=300, name="shape")]
    found = model.generate_plan(short, **make_text(1), engine="fast")
    assert torch.equal(found["shape"], plain["shape"][:, :300])


@pytest.mark.parametrize(
    ("name", "drops"),
    [
        ("text-to-image-to-3d", "text"),
        ("edit-3d", "text"),
        ("edit-3d", "text_and_prefix"),
        ("images-to-3d", "text_and_prefix"),
    ],
)
def test_the_shipped_checkpoint_gives_the_plain_codes(mini, name, drops):
    config, g = mini.config, torch.Generator().manual_seed(0)
    text = {
        "text_embeds": torch.randn(2, 32, config.text_embed_dim, generator=g),
        "text_embeds_2": torch.randn(2, 96, config.text_embed_dim_2, generator=g),
        "text_attention_mask_2": (torch.arange(96) < torch.tensor([[20], [41]])).long(),
    }
    task = get_task(name, num_images=2)
    given = {
        segment.name: torch.randint(1024, (2, 64), generator=g) for segment in task.prefix if segment.kind != "view"
    }
    assert_same(*both(mini, generation_plan(task, config, given), text, guidance_drops=drops))


def test_forced_targets_views_and_prefix_only(model):
    task = get_task("text-to-image-to-3d")
    codes = torch.arange(LS)[None] % KI
    plan = generation_plan(task, model.config, {"image": codes[:, :4]})
    assert_same(*both(model, plan, make_text()))
    # Forced between two sampled segments, with rows of their own.
    start = Step("force", torch.tensor([[model.config.shape_start_id]]))
    between = Step("force", torch.tensor([[1, 2, 3], [4, 5, 6]]))
    sample = Step("sample", modality="shape", count=4, name="a"), Step("sample", modality="shape", count=4, name="b")
    for samples in (1, 2):
        assert_same(*both(model, [start, sample[0], between, sample[1]], make_text(), num_samples=samples))
    plan = make_plan("image-to-3d", model.config, batch=3)
    assert_same(*both(model, plan, {}, guidance_scale=1.0))
    assert_same(*both(model, plan, {}, guidance_drops="text_and_prefix"))
    assert_same(*both(model, plan, {**make_text(3), "null_text": torch.tensor([True, False, True])}))


def test_empty_prompt_and_bounding_box():
    """The grammar of converted Cube 3D checkpoints."""
    sizes = dict(
        null_condition="empty_prompt", text_embed_dim_2=None, use_bbox=True, num_image_codes=0, image_code_dim=0
    )
    model = make_model(**sizes, shape_code_dim=0, token_dropout=0.0, num_views=0)
    plan = generation_plan(get_task("text-to-3d"), model.config)
    text = {"text_embeds": make_text()["text_embeds"], "bbox": torch.rand(2, 3)}
    empty = torch.randn(1, 4, 10)
    settings = dict(guidance_schedule="linear_decay", temperature=1.0, seed=5, num_samples=2)
    assert_same(*both(model, plan, text, negative_text_embeds=empty, **settings))
    passes = fast.decoder_of(model).null_passes
    model.generate_plan(plan, **text, negative_text_embeds=empty.clone(), engine="fast")
    assert fast.decoder_of(model).null_passes == passes
    assert_same(*both(model, plan, text, negative_text_embeds=empty + 1))
    assert fast.decoder_of(model).null_passes == passes + 1
    with pytest.raises(Omni123Error, match="needs negative_text_embeds"):
        model.generate_plan(plan, **text, engine="fast")


def test_batches_equal_single_prompts(model):
    text = make_text(4)
    plan = generation_plan(get_task("text-to-3d"), model.config)
    together = model.generate_plan(plan, **text, engine="fast")["shape"]
    for row in range(4):
        one = {key: value[row : row + 1] for key, value in text.items()}
        assert torch.equal(model.generate_plan(plan, **one, engine="fast")["shape"], together[row : row + 1])


def test_samples_share_the_prompt(model):
    """Equal to repeated rows, while the prompt's keys and values are held once."""
    held = {}
    original = FastDecoder.open

    def opened(self, *args, **kwargs):
        session = original(self, *args, **kwargs)
        held[session.samples] = session
        return session

    plan = make_plan("image-to-3d", model.config)
    repeated = {key: value.repeat_interleave(4, dim=0) for key, value in make_text().items()}
    rows = [Step(s.action, s.ids if s.ids is None or len(s.ids) == 1 else s.ids.repeat_interleave(4, 0), s.modality, s.count, s.name) for s in plan]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastDecoder, "open", opened)
        settings = dict(temperature=1.0, engine="fast")
        shared, copied = (
            model.generate_plan(p, **text, **settings, **more, generator=torch.Generator().manual_seed(0))
            for p, text, more in ((plan, make_text(), {"num_samples": 4}), (rows, repeated, {}))
        )
    assert_same(shared, copied)
    assert len(shared["shape"].unique(dim=0)) > 2
    assert held[4].rows == held[1].rows == 16
    assert held[1].shared_nbytes == 4 * held[4].shared_nbytes


def test_the_null_prompt_is_read_once(model):
    plan = generation_plan(get_task("text-to-3d"), model.config)
    for seed in range(3):
        model.generate_plan(plan, **make_text(seed=seed), engine="fast")
    assert fast.decoder_of(model).null_passes == 1


def test_changed_weights_are_noticed(model):
    plan = generation_plan(get_task("text-to-3d"), model.config)
    decoder = lambda: fast.decoder_of(model)  # noqa: E731
    assert_same(*both(model, plan, make_text()))
    first = decoder()
    assert decoder() is first

    with torch.no_grad():
        model.shape_head.weight.copy_(model.shape_head.weight.flip(0))
    assert_same(*both(model, plan, make_text()))
    second = decoder()
    assert second is not first
    # As merging an adapter does, past the counter of changes.
    model.dual_blocks[1].generation_out.down_proj.weight.data += 0.1
    assert_same(*both(model, plan, make_text()))
    assert decoder() is not second
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    model(torch.randint(KS, (2, 6)), labels=torch.randint(KS, (2, 6)), **make_text()).loss.backward()
    optimizer.step()
    assert_same(*both(model, plan, make_text()))
    model.to(torch.bfloat16)
    model.generate_plan(plan, **{k: v.bfloat16() if v.is_floating_point() else v for k, v in make_text().items()}, engine="fast")  # fmt: skip
    assert decoder().dtype == torch.bfloat16


def test_copies_have_their_own_decoder_and_take_it_with_them(model):
    plan = generation_plan(get_task("text-to-3d"), model.config)
    model.generate_plan(plan, **make_text(), engine="fast")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.shape_head.weight.copy_(twin.shape_head.weight.flip(0))
    assert_same(*both(twin, plan, make_text()))
    # Models of earlier tests may still wait for the collector.
    gc.collect()
    before = len(fast._decoders)
    del twin
    gc.collect()
    assert len(fast._decoders) == before - 1
    fast.release_decoder(model)
    assert model not in fast._decoders


@torch.no_grad()
@pytest.mark.parametrize(("weights", "bound"), [("int8", 0.025), ("int8_dynamic", 0.045)])
def test_8_bit_logits_are_near(mini, weights, bound):
    """Relative error (L2) of the logits of the shipped weights: about twice what docs/performance.md says."""
    config, g = mini.config, torch.Generator().manual_seed(0)
    text = {
        "text_embeds": torch.randn(2, 32, config.text_embed_dim, generator=g),
        "text_embeds_2": torch.randn(2, 96, config.text_embed_dim_2, generator=g),
    }
    codes = torch.randint(config.num_shape_codes, (2, 16), generator=g)
    decoders = [FastDecoder(mini, weights=kind) for kind in ("model", weights)]
    errors = []
    sessions = []
    for decoder in decoders:
        read = decoder.read_prompt(mini, torch.full((2, 1), config.shape_start_id), "shape", text)
        sessions.append(decoder.open([read], 2, 1, 1, 0, 16))
    for place in range(16):
        exact, rounded = (
            d.step(s, codes[:, place], "shape", "shape") for d, s in zip(decoders, sessions, strict=True)
        )
        errors.append(float((rounded - exact).norm() / exact.norm()))
    assert 0 < sum(errors) / len(errors) < bound
    assert decoders[1].bytes_per_step < decoders[0].bytes_per_step / 3
    plan = [
        Step("force", torch.tensor([[config.shape_start_id]])),
        Step("sample", modality="shape", count=4, name="a"),
    ]
    assert mini.generate_plan(plan, **text, engine="fast", decode_weights=weights)["a"].shape == (2, 4)
    assert fast.decoder_of(mini, weights).weights == weights


def test_products_are_the_linear_layers():
    g = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=g) for shape in ((96, 64), (96,), (2, 64)))
    expected = torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(PackedLinear(weight, bias)(x), expected)
    torch.testing.assert_close(PackedLinear(weight, None)(x), expected - bias)
    for kind, bound in ((Int8Linear, 0.015), (Int8DynamicLinear, 0.02)):
        assert float((kind(weight, bias)(x) - expected).norm() / expected.norm()) < bound


def test_what_cannot_be_fast_is_said(model, caplog):
    plan = generation_plan(get_task("text-to-3d"), model.config)
    run = lambda **settings: model.generate_plan(plan, **make_text(), **settings)  # noqa: E731
    model.train()
    with pytest.raises(Omni123Error, match="training mode"):
        run(engine="fast")
    plain = model.eval() and run()
    handle = model.shape_head.register_forward_hook(lambda *_: None)
    from omni123_hf.modeling import generation_omni123

    generation_omni123._tell_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert_same(plain, run(engine="auto"))
        run(engine="auto")
    assert [r.getMessage() for r in caplog.records if "plain engine" in r.getMessage()] == [
        "decoding with the plain engine, which is slower: shape_head carries hooks, which fast decoding would not call"
    ]
    handle.remove()
    with pytest.raises(Omni123Error, match="belong to the plain engine"):
        run(engine="fast", use_cache=False)
    with pytest.raises(Omni123Error, match="engine is 'quick'"):
        run(engine="quick")
    with pytest.raises(Omni123Error, match="decode_weights is 'int4'"):
        run(engine="fast", decode_weights="int4")
    with pytest.raises(Omni123Error, match="pass engine='fast'"):
        run(decode_weights="int8")
    with pytest.raises(Omni123Error, match="num_samples is 0"):
        run(num_samples=0)


def test_callback_sees_every_code(model):
    seen = []
    plan = make_plan("text-to-image-to-3d", model.config)
    codes = model.generate_plan(
        plan,
        **make_text(),
        engine="fast",
        callback=lambda progress: seen.append((progress.done, progress.total, progress.modality, len(progress.codes))),
    )
    assert seen == [(i + 1, 9, "image", i + 1) for i in range(4)] + [(i + 5, 9, "shape", i + 1) for i in range(5)]
    assert codes["shape"].shape == (2, LS)


def test_a_static_step_is_one_full_graph(model):
    """What CUDA compiles, through a compiler that changes nothing: no graph break, and one graph for a bucket."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    decoder = FastDecoder(model, compile_step=True)
    decoder._compiled = torch.compile(decoder._static_forward, fullgraph=True, dynamic=False, backend=backend)
    plan = generation_plan(get_task("text-to-3d"), model.config)
    expected = model.generate_plan(plan, **make_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "decoder_of", lambda *_: decoder)
        assert_same(expected, model.generate_plan(plan, **make_text(), engine="fast"))
    assert len(graphs) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
def test_cuda_graphs_give_the_plain_codes():
    """Never run yet: the project has had no GPU."""
    model = make_model(num_shape_tokens=600, num_shape_codes=500).cuda()
    plan = generation_plan(get_task("text-to-3d"), model.config)
    text = {key: value.cuda() for key, value in make_text().items()}
    for _ in range(2):
        assert_same(*both(model, plan, text))
    assert len(fast.decoder_of(model).kept.graphs) == 3
