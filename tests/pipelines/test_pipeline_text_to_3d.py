"""Text to 3D: on converted Cube 3D checkpoints (one text encoder, boxes) and on our own (two, no boxes)."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cube3d_checkpoint import V05, CubeCheckpoint
from cube3d_reference import gpt_logits, token_table
from transformers import CLIPTextConfig, CLIPTextModel

from omni123_hf.conversion.cube3d import convert_cube3d
from omni123_hf.errors import Omni123Error
from omni123_hf.modeling.tasks import generation_plan, get_task
from omni123_hf.modeling.text_tokenizers import build_clip_tokenizer
from omni123_hf.pipelines import Omni123JointPipeline, Omni123TextTo3DPipeline, load_pipeline


PROMPT = "a round wooden table"
BOXES = [[1.0, 2.0, 0.5], None, [3.0, 3.0, 3.0]]
PROMPTS = [PROMPT, "a tall red vase", "a round wooden vase"]


SIZES = replace(V05, singles=2, codes=61, latents=10)


@pytest.fixture(scope="module")
def checkpoint() -> CubeCheckpoint:
    made = CubeCheckpoint.random(SIZES, seed=11)
    for name, tensor in made.gpt.items():
        # Pointed attention over weak embeddings: greedy codes then follow prompt, box and history instead of repeating.
        if name.endswith("q_norm.weight"):
            tensor *= 3
        elif name.startswith("shape_proj") or name.endswith("bias"):
            tensor *= 0.3
    return made


@pytest.fixture(scope="module")
def converted(checkpoint, tmp_path_factory) -> Path:
    """A converted checkpoint with a tiny random CLIP. Read only."""
    folder = tmp_path_factory.mktemp("cube")
    torch.manual_seed(0)
    tokenizer = build_clip_tokenizer(PROMPTS, vocab_size=90, max_length=14)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=SIZES.text,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=14,
        eos_token_id=tokenizer.eos_token_id,
    )
    encoder = CLIPTextModel(config)
    with torch.no_grad():
        # A fresh CLIP tells prompts apart too weakly to change a greedy code.
        encoder.get_input_embeddings().weight.mul_(50)
    encoder.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    gpt, codes = checkpoint.save(folder / "source")
    convert_cube3d(gpt, codes, folder / "converted", text_encoder=str(folder / "clip"))
    return folder / "converted"


@pytest.fixture(scope="module")
def pipeline(converted) -> Omni123TextTo3DPipeline:
    return Omni123TextTo3DPipeline.from_pretrained(converted)


@pytest.fixture(scope="module")
def without_text(checkpoint, tmp_path_factory) -> Omni123TextTo3DPipeline:
    folder = tmp_path_factory.mktemp("textless")
    convert_cube3d(*checkpoint.save(folder / "source"), folder / "converted")
    return Omni123TextTo3DPipeline.from_pretrained(folder / "converted")


def tokens(pipeline, prompt=PROMPT, **options) -> torch.Tensor:
    return pipeline(prompt, output_type="tokens", **options).shape_tokens


def test_greedy_tokens_are_those_of_the_second_implementation(pipeline, checkpoint):
    """Guidance as Cube 3D writes it, (1 + g) cond - g uncond with g from 3 to 0, the box of the other row left out."""
    table = token_table(checkpoint.gpt, checkpoint.tokenizer)
    text = pipeline.encode_prompt([PROMPT]).text_embeds
    empty = pipeline.encode_prompt([""]).text_embeds
    box = torch.tensor([[1.0, 2.0, 0.5]]) * 1.925 / 2
    ids = torch.empty(1, 0, dtype=torch.long)
    for step in range(SIZES.latents):
        cond, uncond = (
            gpt_logits(checkpoint.gpt, table, SIZES.heads, embeds, sides, ids)[:, -1, : SIZES.codes]
            for embeds, sides in ((text, box), (empty, torch.zeros(1, 3)))
        )
        gamma = 3 * (SIZES.latents - step) / SIZES.latents
        ids = torch.cat([ids, ((1 + gamma) * cond - gamma * uncond).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(tokens(pipeline, bbox=[1.0, 2.0, 0.5]), ids)


def test_prompts_and_boxes_change_the_tokens(pipeline):
    one, other = tokens(pipeline, PROMPTS[0]), tokens(pipeline, PROMPTS[1])
    assert not torch.equal(one, other)
    boxes = [tokens(pipeline, bbox=box) for box in (None, [1.0, 9.0, 1.0], [9.0, 1.0, 1.0])]
    assert not torch.equal(boxes[0], boxes[1]) and not torch.equal(boxes[1], boxes[2])


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_a_batch_with_boxes_equals_single_runs(pipeline, scale):
    batch = tokens(pipeline, PROMPTS, bbox=BOXES, guidance_scale=scale)
    single = [
        tokens(pipeline, prompt, bbox=box, guidance_scale=scale) for prompt, box in zip(PROMPTS, BOXES, strict=True)
    ]
    assert torch.equal(batch, torch.cat(single))


def test_guidance_zero_ignores_prompt_and_box_and_one_needs_no_empty_prompt(pipeline, without_text):
    ignored = [
        tokens(pipeline, prompt, bbox=box, guidance_scale=0.0, guidance_schedule="constant")
        for prompt, box in ((PROMPTS[0], None), (PROMPTS[1], [1.0, 2.0, 3.0]))
    ]
    assert torch.equal(*ignored)
    embeds = pipeline.encode_prompt([PROMPT]).text_embeds
    unguided = tokens(without_text, None, prompt_embeds=embeds, guidance_scale=1.0)
    assert torch.equal(unguided, tokens(pipeline, guidance_scale=1.0))
    assert not torch.equal(unguided, ignored[0])


def test_cached_tokens_equal_uncached_ones(pipeline):
    plan = generation_plan(get_task("text-to-3d"), pipeline.transformer.config)
    text, empty = (pipeline.encode_prompt(prompts).text_embeds for prompts in (PROMPTS, [""]))
    options = {
        "text_embeds": text,
        "negative_text_embeds": empty,
        "bbox": pipeline.check_bbox(BOXES, rows=3),
        "guidance_scale": 4.0,
        "guidance_schedule": "linear_decay",
    }
    cached, uncached = (pipeline.transformer.generate_plan(plan, use_cache=flag, **options) for flag in (True, False))
    assert torch.equal(cached["shape"], uncached["shape"])
    assert torch.equal(cached["shape"], tokens(pipeline, PROMPTS, bbox=BOXES))


def test_save_and_load_give_the_same_tokens(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "copy")
    copy = load_pipeline(str(tmp_path / "copy"))
    assert isinstance(copy, Omni123TextTo3DPipeline)
    assert copy.guidance(None, None) == (4.0, "linear_decay")
    options = {"bbox": [1.0, 1.0, 2.0], "temperature": 1.0, "seed": 3}
    assert torch.equal(tokens(copy, **options), tokens(pipeline, **options))


def test_given_embeddings_equal_the_prompt(pipeline):
    text, empty = pipeline.encode_prompt(PROMPTS[:2]), pipeline.encode_prompt([""])
    expected = tokens(pipeline, PROMPTS[:2])
    assert torch.equal(tokens(pipeline, None, prompt_embeds=text), expected)
    given = tokens(pipeline, None, prompt_embeds=text.text_embeds, negative_prompt_embeds=empty.text_embeds)
    assert torch.equal(given, expected)
    other = tokens(pipeline, PROMPTS[:2], negative_prompt_embeds=text.text_embeds.flip(0) * 3)
    assert not torch.equal(other, expected)


def test_the_longest_side_of_a_box_becomes_1_925(pipeline):
    boxes = pipeline.check_bbox([[10, 20, 5], None, torch.zeros(3).tolist()], rows=3)
    assert torch.allclose(boxes[0], torch.tensor([0.9625, 1.925, 0.48125]))
    assert not boxes[1:].any()
    assert torch.equal(pipeline.check_bbox(torch.tensor([2.0, 1.0, 1.0]), rows=2)[1], boxes[0][[1, 0, 0]])
    assert not pipeline.check_bbox(None, rows=2).any()


def test_the_output_has_meshes_and_no_images(pipeline, monkeypatch):
    steps, points = [], []
    monkeypatch.setattr(pipeline.shape_tokenizer, "query", lambda latents, queries: 0.7 - queries.norm(dim=-1))
    output = pipeline(
        PROMPTS[:2],
        resolution=16,
        callback_on_step_end=lambda pipeline, step, total, facts: steps.append((step, total, facts["modality"])),
        callback_on_extraction=lambda done, total: points.append((done, total)),
    )
    assert output.images is None and output.image_tokens is None
    assert output.shape_tokens.shape == (2, SIZES.latents) and output.shape_tokens.max() < SIZES.codes
    assert all(
        mesh.is_watertight and health["watertight"] for mesh, health in zip(output.meshes, output.health, strict=True)
    )
    assert output.failures == [None, None]
    assert steps == [(step, SIZES.latents, "shape") for step in range(1, SIZES.latents + 1)]
    assert points[-1] == (2 * 16**3, 2 * 16**3)
    assert set(output.timings) == {"text_encoder", "transformer", "shape_decoder", "mesh_health"}
    assert len(pipeline(PROMPT, output_type="tokens", return_dict=False)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "one of the two"),
        ({"prompt_embeds": torch.zeros(1, 14, 20)}, "one of the two"),
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "round " * 40}, "takes 14; shorten"),
        ({"prompt": None, "prompt_embeds": torch.zeros(14, 20)}, "batch, length, width"),
        ({"prompt": None, "prompt_embeds": [1.0]}, "batch, length, width"),
        ({"prompt": None, "prompt_embeds": torch.full((1, 14, 20), torch.nan)}, "NaN"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 14, 21)}, "text_embeds"),
        ({"negative_prompt_embeds": torch.zeros(1, 13, 20)}, "negative_text_embeds"),
        ({"bbox": [1.0, 2.0]}, "three sides"),
        ({"bbox": [[1.0, 2.0, 3.0]] * 2}, "one box a prompt"),
        ({"bbox": [1.0, -2.0, 3.0]}, "positive number"),
        ({"bbox": [1.0, 0.0, 3.0]}, "positive number"),
        ({"bbox": [1.0, float("nan"), 3.0]}, "positive number"),
        ({"bbox": [1.0, float("inf"), 3.0]}, "positive number"),
        ({"bbox": "large"}, "three numbers"),
        ({"bbox": 3.0}, "three numbers"),
        ({"guidance_scale": -1.0}, "guidance scale"),
        ({"guidance_schedule": "cosine"}, "guidance schedule"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top-k"),
        ({"top_p": 0.0}, "top-p"),
        ({"seed": -1}, "seed"),
        ({"output_type": "latent"}, "output type"),
        ({"output_type": "trimesh", "resolution": 4}, "at least 16"),
    ],
)
def test_bad_input_gives_one_clear_line(pipeline, changes, message):
    with pytest.raises(Omni123Error, match=message) as caught:
        pipeline(**{"prompt": PROMPT, "output_type": "tokens", **changes})
    assert "\n" not in str(caught.value)


def test_a_folder_without_text_encoder_says_how_to_add_one(without_text):
    with pytest.raises(Omni123Error, match="no tokenizer and no text_encoder .*--text-encoder"):
        without_text(PROMPT, output_type="tokens")
    with pytest.raises(Omni123Error, match="negative_prompt_embeds or guidance_scale=1"):
        without_text(prompt_embeds=torch.zeros(1, 4, SIZES.text), output_type="tokens")


def test_a_text_encoder_can_be_handed_over_in_loading(without_text, converted, pipeline):
    folder = without_text.config["_name_or_path"]
    parts = {"text_encoder": pipeline.text_encoder, "tokenizer": pipeline.tokenizer}
    completed = Omni123TextTo3DPipeline.from_pretrained(folder, **parts)
    assert torch.equal(tokens(completed), tokens(pipeline))


def test_our_own_checkpoints_with_two_encoders(tiny_pipeline, tiny_pipeline_folder, caplog):
    caplog.set_level(logging.WARNING)
    pipeline = Omni123TextTo3DPipeline.from_pretrained(tiny_pipeline_folder)
    # The parts that draw images are left out, and nothing is said about it.
    assert "image_vae" not in pipeline.components and "not expected" not in caplog.text
    assert pipeline.guidance(None, None) == (5.0, "constant")
    prompts = ["a tall red vase", "a blue car with four wheels"]
    text = tiny_pipeline.encode_prompt(prompts)
    expected = tiny_pipeline.transformer.generate_plan(
        generation_plan(get_task("text-to-3d"), tiny_pipeline.transformer.config),
        text_embeds=text.text_embeds,
        text_embeds_2=text.text_embeds_2,
        text_attention_mask_2=text.text_attention_mask_2,
    )["shape"]
    assert torch.equal(tokens(pipeline, prompts), expected)
    assert torch.equal(tokens(pipeline, None, prompt_embeds=text), expected)
    for options, message in (
        ({"bbox": [1.0, 1.0, 1.0]}, "without bounding boxes"),
        ({"negative_prompt_embeds": text.text_embeds}, "learned null condition"),
        ({"prompt": "tall " * 40}, "takes 24; shorten"),
    ):
        with pytest.raises(Omni123Error, match=message):
            pipeline(**{"prompt": prompts[0], "output_type": "tokens", **options})


def test_the_pipeline_class_comes_from_the_index_and_a_wrong_one_is_named(converted, tiny_pipeline_folder, tmp_path):
    assert isinstance(load_pipeline(str(converted)), Omni123TextTo3DPipeline)
    assert isinstance(load_pipeline(str(tiny_pipeline_folder)), Omni123JointPipeline)
    with pytest.raises(Omni123Error, match="needs image_tokenizer, image_vae, text_encoder_2, tokenizer_2") as caught:
        Omni123JointPipeline.from_pretrained(converted)
    assert "load it as Omni123TextTo3DPipeline" in str(caught.value)
    copy = Path(shutil.copytree(converted, tmp_path / "copy"))
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("Omni123TextTo3DPipeline", "FluxPipeline"))
    with pytest.raises(Omni123Error, match="saved from FluxPipeline"):
        load_pipeline(str(copy))


def test_a_hub_id_is_read_for_its_class(converted, monkeypatch):
    monkeypatch.setattr("omni123_hf.pipelines.pipeline_base.snapshot_download", lambda name, **options: str(converted))
    assert isinstance(load_pipeline("someone/cube", revision="v1"), Omni123TextTo3DPipeline)
