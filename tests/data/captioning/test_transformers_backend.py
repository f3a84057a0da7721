"""A real (tiny, random) vision-language model: images reach it, the schema holds it, and its nonsense is rejected."""

import json
import time

import pytest
import torch
from scripted import chair_request, picture
from tiny_vlm import tiny_llava

from omni123_hf.data.captioning.backends import BackendError, Message, Sampling
from omni123_hf.data.captioning.conversation import ConversationCaptioner, ConversationSettings
from omni123_hf.data.captioning.deadline import answers_until
from omni123_hf.data.captioning.guided_decoding import FreeText, Options, walk
from omni123_hf.data.captioning.schema import array, choice, read_reply, record, text
from omni123_hf.data.captioning.transformers_backend import TransformersBackend
from omni123_hf.errors import RejectedError


SCHEMA = record(
    views=array(record(view=choice(["front", "top"]), note=text(1, 24)), 2),
    extras=array(choice(["yes", "no"]), 0, 2),
    score={"type": "integer", "minimum": 0, "maximum": 12},
    name=text(1, 12),
)


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return TransformersBackend(*tiny_llava(), model_id="tiny")


def ask(shade: int = 90) -> list[Message]:
    return [Message("system", ("Answer.",)), Message("user", ("front:", picture(shade), "what is it?"))]


@pytest.mark.parametrize("seed", range(4))
def test_a_random_model_is_held_to_the_schema(backend, seed):
    completion = backend.complete(ask(), SCHEMA, Sampling(seed, temperature=2.0, max_tokens=400))
    assert completion.finish == "stop"
    read_reply(completion.text, SCHEMA)
    assert json.loads(completion.text).keys() == SCHEMA["properties"].keys()
    assert completion.prompt_tokens > 5 and completion.completion_tokens > 20


def test_the_same_seed_gives_the_same_reply_and_leaves_the_global_generator_alone(backend):
    before = torch.random.get_rng_state()
    replies = [backend.complete(ask(), SCHEMA, Sampling(seed, 2.0, 400)).text for seed in (1, 1, 2)]
    assert replies[0] == replies[1] != replies[2]
    assert torch.equal(before, torch.random.get_rng_state())
    greedy = [backend.complete(ask(), SCHEMA, Sampling(seed, 0.0, 400)).text for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def test_another_image_gives_other_logits(backend):
    with torch.no_grad():
        logits = [backend.model(**backend.encode(ask(shade))).logits[0, -1] for shade in (0, 0, 255)]
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])


def test_without_guidance_a_random_model_is_repaired_and_then_rejected(backend):
    free = TransformersBackend(backend.model, backend.processor, "tiny", guided=False)
    assert free.model_id != backend.model_id
    captioner = ConversationCaptioner(free, settings=ConversationSettings(repairs=1, max_tokens=12))
    with pytest.raises(RejectedError, match="after 1 repair turns") as rejected:
        captioner.caption(chair_request())
    assert rejected.value.reason == "caption_invalid"


def test_a_reply_that_reaches_the_limit_is_reported_as_cut(backend):
    completion = backend.complete(ask(), SCHEMA, Sampling(max_tokens=5))
    assert completion.finish == "length" and completion.completion_tokens == 5


def test_a_reply_that_the_deadline_cuts_is_no_fault_of_the_asset(backend):
    endless = record(names=array(choice(["top"]), 2000))
    start = time.monotonic()
    with answers_until(start + 0.3), pytest.raises(BackendError, match="seconds_per_asset"):
        backend.complete(ask(), endless, Sampling(max_tokens=4000))
    assert 0.3 <= time.monotonic() - start < 3.0
    with answers_until(start), pytest.raises(BackendError, match="run again"):
        backend.complete(ask(), SCHEMA, Sampling(max_tokens=400))


def test_the_walk_asks_for_each_item_between_the_bounds():
    steps = walk(array(choice(["a"]), 1, 2))
    assert [next(steps), steps.send("["), steps.send(" ")] == [Options(("[",)), Options((" ",)), Options(('"a"',))]
    assert steps.send('"a"') == Options((", ", "]"))
    with pytest.raises(StopIteration):
        steps.send("]")
    assert list(walk(text(1, 30)))[1] == FreeText(10)


def test_models_that_cannot_chat_are_refused(backend, tmp_path):
    model, processor = tiny_llava()
    processor.chat_template = None
    with pytest.raises(BackendError, match="chat template"):
        TransformersBackend(model, processor, "tiny")
    with pytest.raises(BackendError, match="cannot load"):
        TransformersBackend.from_pretrained(tmp_path)


def test_a_saved_model_loads_and_answers_the_same(backend, tmp_path):
    backend.model.save_pretrained(tmp_path)
    backend.processor.save_pretrained(tmp_path)
    loaded = TransformersBackend.from_pretrained(tmp_path)
    sampling = Sampling(0, 0.0, 400)
    assert loaded.complete(ask(), SCHEMA, sampling).text == backend.complete(ask(), SCHEMA, sampling).text
