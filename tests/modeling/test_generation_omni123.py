"""The decode loop: cache, guidance, sampling, validation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_omni123 import KI, KS, LI, LS, make_model, make_sequence, make_text

from omni123_hf.errors import Omni123Error
from omni123_hf.modeling import TASKS, Step, build_sequence, generation_plan, get_task
from omni123_hf.modeling.generation_omni123 import add_bonus, filter_logits, guidance_weight, sample_codes


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_plan(name, config, batch=2, seed=0):
    task = get_task(name, num_images=2, num_extra_images=1)
    rng = np.random.default_rng(seed)
    sizes = {"image": (LI, KI), "shape": (LS, KS)}
    given = {
        s.name: rng.integers(0, sizes[s.kind][1], (batch, sizes[s.kind][0])) for s in task.prefix if s.kind != "view"
    }
    return generation_plan(task, config, given)


def record_logits(model):
    """Collects the last-position logits of every pass."""
    logits = []

    def hook(module, inputs, output):
        logits.append(output.detach()[:, -1].clone())

    handles = [head.register_forward_hook(hook) for head in (model.shape_head, model.image_head)]
    return logits, handles


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("drops", ["text", "text_and_prefix"])
def test_cached_logits_equal_uncached(model, name, drops):
    plan = make_plan(name, model.config)
    runs = []
    for use_cache in (True, False):
        logits, handles = record_logits(model)
        codes = model.generate_plan(plan, **make_text(), guidance_scale=3.0, guidance_drops=drops, use_cache=use_cache)
        for handle in handles:
            handle.remove()
        runs.append((codes, logits))
    (cached, fast), (uncached, slow) = runs
    total = sum(step.count for step in plan)
    assert len(fast) == len(slow) == total  # Only the active head runs, once for each code.
    assert all(a.shape[0] == 4 for a in fast)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert cached.keys() == uncached.keys() == {s.name for s in get_task(name, 2, 1).targets}
    assert all(torch.equal(cached[key], uncached[key]) for key in cached)


@pytest.mark.parametrize("name", ["text-to-image-to-3d", "image-to-3d"])
def test_generation_follows_the_training_forward(model, name):
    """Greedy codes are the argmax of the training-time forward over the finished sequence."""
    task = get_task(name)
    source = {"image": make_sequence(name, model.config).ids[:, 1 : 1 + LI] - KS} if task.prefix else {}
    codes = model.generate_plan(generation_plan(task, model.config, source), **make_text(), guidance_scale=1.0)
    sequence = build_sequence(task, {**source, **codes}, model.config)
    output = model(sequence.ids, **make_text(), prefix_length=sequence.prefix_length)
    labels = sequence.labels[:, 1:]
    is_shape, is_image = (labels >= 0) & (labels < KS), labels >= KS
    assert torch.equal(output.shape_logits[:, :-1].argmax(-1)[is_shape], labels[is_shape])
    assert torch.equal(output.image_logits[:, :-1].argmax(-1)[is_image] + KS, labels[is_image])
    assert is_shape.sum() == 2 * LS


def test_guidance_one_is_unguided_and_larger_is_not(model):
    plan = make_plan("text-to-3d", model.config)
    logits, handles = record_logits(model)
    plain = model.generate_plan(plan, **make_text(), guidance_scale=1.0)
    assert all(step.shape[0] == 2 for step in logits)
    for handle in handles:
        handle.remove()
    # A schedule that starts and stays at 1 through the doubled path gives the same codes.
    near = model.generate_plan(plan, **make_text(), guidance_scale=1.0 + 1e-7)
    assert torch.equal(plain["shape"], near["shape"])
    strong = model.generate_plan(plan, **make_text(), guidance_scale=8.0)
    assert not torch.equal(plain["shape"], strong["shape"])


def test_guidance_formula_and_schedules(model):
    plan = make_plan("text-to-3d", model.config)
    logits, handles = record_logits(model)
    codes = model.generate_plan(plan, **make_text(), guidance_scale=4.0, guidance_schedule="linear_decay")["shape"]
    for handle in handles:
        handle.remove()
    for i, step in enumerate(logits):
        conditional, unconditional = step.chunk(2)
        weight = 1 + 3 * (LS - i) / LS
        assert guidance_weight(4.0, "linear_decay", i, LS) == pytest.approx(weight)
        assert torch.equal((unconditional + weight * (conditional - unconditional)).argmax(-1), codes[:, i])
    assert guidance_weight(4.0, "constant", 3, LS) == 4.0


def test_unconditional_rows_see_neither_text_nor_dropped_prefix(model):
    """The null half of the first pass is independent of the prompt always, of the prefix only when that is dropped."""

    def null_half(seed_text, seed_prefix, drops):
        logits, handles = record_logits(model)
        model.generate_plan(
            make_plan("image-to-3d", model.config, seed=seed_prefix), **make_text(seed=seed_text), guidance_drops=drops
        )
        for handle in handles:
            handle.remove()
        return logits[0][2:]

    base = null_half(1, 0, "text")
    torch.testing.assert_close(base, null_half(9, 0, "text"))
    assert (base - null_half(1, 5, "text")).abs().max() > 1e-3
    torch.testing.assert_close(null_half(1, 0, "text_and_prefix"), null_half(9, 5, "text_and_prefix"))


def test_same_seed_same_codes(model):
    plan = make_plan("text-to-image-to-3d", model.config)

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return model.generate_plan(plan, **make_text(), guidance_scale=1.0, temperature=1.0, generator=generator)

    a, b, c = run(0), run(0), run(1)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)
    assert a["image"].max() < KI and a["shape"].max() < KS


def test_forced_targets_steer_what_follows(model):
    task = get_task("text-to-image-to-3d")
    plans = [generation_plan(task, model.config, {"image": np.full(LI, k)}) for k in (0, 1)]
    codes = [model.generate_plan(plan, **make_text(), guidance_scale=1.0) for plan in plans]
    assert codes[0].keys() == {"shape"}
    assert not torch.equal(codes[0]["shape"], codes[1]["shape"])


def test_prefix_only_generation(model):
    plan = make_plan("image-to-3d", model.config, batch=3)
    assert model.generate_plan(plan, guidance_scale=1.0)["shape"].shape == (3, LS)
    assert model.generate_plan(plan, guidance_drops="text_and_prefix")["shape"].shape == (3, LS)
    with pytest.raises(Omni123Error, match="no text for guidance to drop"):
        model.generate_plan(plan)


def test_empty_prompt_guidance():
    model = make_model(null_condition="empty_prompt", text_embed_dim_2=None, use_bbox=True)
    plan = make_plan("text-to-3d", model.config)
    text, empty = make_text()["text_embeds"], torch.zeros(1, 4, 10)
    box = torch.rand(2, 3)
    codes = model.generate_plan(plan, text, bbox=box, negative_text_embeds=empty)["shape"]
    again = model.generate_plan(plan, text, bbox=box, negative_text_embeds=empty, use_cache=False)["shape"]
    assert torch.equal(codes, again)
    with pytest.raises(Omni123Error, match="needs negative_text_embeds"):
        model.generate_plan(plan, text)


def test_callback_counts_codes_of_both_modalities(model):
    calls, shapes = [], []

    def callback(progress):
        calls.append((progress.done, progress.total, progress.modality, progress.segment, len(progress.codes)))
        if progress.segment == "shape":
            shapes.append(torch.cat(list(progress.codes), dim=1))

    plan = make_plan("text-to-image-to-3d", model.config)
    codes = model.generate_plan(plan, **make_text(), guidance_scale=1.0, callback=callback)
    total = LI + LS
    image = [(i + 1, total, "image", "image", i + 1) for i in range(LI)]
    assert calls == image + [(LI + i + 1, total, "shape", "shape", i + 1) for i in range(LS)]
    assert torch.equal(shapes[-1], codes["shape"])
    assert torch.equal(shapes[2], codes["shape"][:, :3])


def test_top_p_keeps_the_code_that_crosses_p():
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    kept = lambda **kwargs: torch.isfinite(filter_logits(logits, **kwargs))[0].tolist()  # noqa: E731
    assert kept(top_p=0.9) == [True, True, False, True]
    assert kept(top_p=0.79) == [False, True, False, True]
    assert kept(top_p=0.1) == [False, True, False, False]
    assert kept(top_p=1.0) == [True] * 4
    assert kept(top_k=2) == [False, True, False, True]
    assert kept(top_k=9) == [True] * 4


def test_sampling_follows_the_distribution():
    probabilities = torch.tensor([0.15, 0.5, 0.05, 0.3])
    logits = probabilities.log().expand(40000, 4)
    generator = torch.Generator().manual_seed(0)
    counts = sample_codes(logits, temperature=1.0, top_p=0.9, generator=generator).flatten().bincount(minlength=4)
    expected = torch.tensor([0.15, 0.5, 0.0, 0.3]) / 0.95
    torch.testing.assert_close(counts / 40000, expected, atol=0.01, rtol=0)
    cold = sample_codes(logits, temperature=0.5, generator=generator).flatten().bincount(minlength=4) / 40000
    torch.testing.assert_close(cold, probabilities**2 / (probabilities**2).sum(), atol=0.01, rtol=0)
    assert sample_codes(logits[:1]).tolist() == [[1]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"guidance_schedule": "cosine"}, "guidance_schedule is 'cosine'"),
        ({"guidance_drops": "prefix"}, "guidance_drops is 'prefix'"),
        ({"batch_size": 3}, r"different batch sizes \[2, 3\]"),
        ({"negative_text_embeds": torch.zeros(1, 4, 10)}, "leave negative_text_embeds out"),
    ],
)
def test_bad_settings_name_the_problem(model, settings, message):
    with pytest.raises(Omni123Error, match=message):
        model.generate_plan(make_plan("text-to-3d", model.config), **make_text(), **settings)


def test_bad_plans_name_the_problem(model):
    start = Step("force", torch.tensor([[model.config.shape_start_id]]))
    sample = Step("sample", modality="shape", count=1, name="shape")
    for plan, message in (
        ([start], "samples nothing"),
        ([sample], "must begin with"),
        ([Step("force", torch.tensor([[10**6]])), sample], "leave the vocabulary"),
        ([start, Step("prefill", torch.tensor([[0]])), sample], "must all come first"),
    ):
        with pytest.raises(Omni123Error, match=message):
            model.generate_plan(plan, **make_text())


def test_conditions_are_checked_before_rows_are_doubled():
    """NaN would otherwise end as a row of zeros, and messages would name rows that the caller never gave."""
    model = make_model(null_condition="empty_prompt", use_bbox=True, token_dropout=0.0)
    plan, text = make_plan("text-to-3d", model.config), make_text()
    negative = {
        f"negative_{key}": value[:1] for key, value in make_text(seed=7).items() if key != "text_attention_mask_2"
    }
    codes = model.generate_plan(plan, **text, **negative, bbox=torch.rand(2, 3))["shape"]
    assert codes.shape == (2, LS)
    with pytest.raises(Omni123Error, match=r"bbox is \(1, 3\): it must have \(rows, 3\), rows = 2"):
        model.generate_plan(plan, **text, **negative, bbox=torch.rand(1, 3))
    with pytest.raises(Omni123Error, match="negative_text_embeds is"):
        model.generate_plan(plan, **text, **{**negative, "negative_text_embeds": torch.zeros(3, 4, 10)})
    with pytest.raises(Omni123Error, match="text_embeds holds NaN"):
        model.generate_plan(plan, **{**text, "text_embeds": text["text_embeds"] * float("nan")}, **negative)
    with pytest.raises(Omni123Error, match="bbox holds NaN"):
        model.generate_plan(plan, **text, **negative, bbox=torch.full((2, 3), float("inf")))


def test_empty_prompt_guidance_with_two_text_encoders():
    model = make_model(null_condition="empty_prompt", token_dropout=0.0)
    plan, text, empty = make_plan("text-to-3d", model.config), make_text(), make_text(seed=7)
    negative = {f"negative_{key}": value for key, value in empty.items()}
    unguided = model.generate_plan(plan, **empty, guidance_scale=1.0)["shape"]
    # Scale 0 is the unconditional branch alone: what the empty prompt gives.
    assert torch.equal(model.generate_plan(plan, **text, **negative, guidance_scale=0.0)["shape"], unguided)
    with pytest.raises(Omni123Error, match="needs negative_text_embeds_2"):
        model.generate_plan(plan, **text, negative_text_embeds=empty["text_embeds"])


def test_plans_that_the_model_cannot_follow_are_named(model):
    shapes_only = make_model(num_image_codes=0, image_code_dim=0, shape_code_dim=0)
    plan = [Step("force", torch.tensor([[KS]])), Step("sample", modality="image", count=2, name="image")]
    with pytest.raises(Omni123Error, match="shape codes only"):
        shapes_only.generate_plan(plan, **make_text())
    with pytest.raises(Omni123Error, match="no step 'foo'"):
        model.generate_plan([Step("foo", torch.tensor([[0]])), *plan], **make_text())
    with pytest.raises(Omni123Error, match="this one has none"):
        generation_plan(get_task("text-to-posed-image"), make_model(num_views=0).config)


def test_favoured_codes_are_preferred(model):
    """A bonus moves every logit of its own code and no other; a large one decides, and none changes nothing."""
    plan = make_plan("edit-3d", model.config)
    text = make_text()
    liked = torch.randint(KS, (2, LS), generator=torch.Generator().manual_seed(4))

    def codes(bonus, liked=liked, **settings):
        steps = [replace(step, favoured=liked, bonus=bonus) if step.action == "sample" else step for step in plan]
        return model.generate_plan(steps, **text, guidance_scale=2.0, **settings)["shape"]

    plain = model.generate_plan(plan, **text, guidance_scale=2.0)["shape"]
    assert torch.equal(codes(0.0), plain)
    assert torch.equal(codes(1e4), liked)
    assert torch.equal(codes(1e4, num_samples=2, temperature=1.0), liked.repeat_interleave(2, dim=0))
    assert torch.equal(codes(1e4, liked[:1]), liked[:1].expand(2, -1))
    kept = [float((codes(bonus) == liked).float().mean()) for bonus in (0.0, 0.5, 1e4)]
    assert kept[0] < kept[2] and kept == sorted(kept)
    assert not (codes(-1e4) == liked).any()
    logits = add_bonus(torch.zeros(2, KS), Step("sample", count=LS, favoured=liked, bonus=1.5), 3)
    assert float(logits.sum()) == 3.0 and float(logits[1, liked[1, 3]]) == 1.5
    for bad, bonus, message in (
        (liked[:, 1:], 1.0, "must be"),
        (liked + KS, 1.0, "lie in"),
        (liked, float("nan"), "finite"),
    ):
        with pytest.raises(Omni123Error, match=message):
            codes(bonus, bad)
    with pytest.raises(Omni123Error, match="batch sizes"):
        codes(1.0, liked.repeat(2, 1)[:3])
