"""The joint pipeline on tiny random components (its round trip stands in test_pipeline_hub): determinism, failures, bad input."""

import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.postprocess import FinishSettings
from omni123_hf.pipelines import Omni123JointPipeline
from omni123_hf.pipelines.pipeline_base import available_memory, check_resolution
from omni123_hf.pipelines.ranking import rank_candidates


PROMPT = "a round wooden table with three legs"


def test_output_has_one_entry_a_prompt(tiny_pipeline):
    config = tiny_pipeline.transformer.config
    output = tiny_pipeline([PROMPT, "a tall red vase"], resolution=16)
    assert output.image_tokens.shape == (2, config.num_image_tokens)
    assert output.shape_tokens.shape == (2, config.num_shape_tokens)
    assert output.image_tokens.max() < config.num_image_codes and output.shape_tokens.max() < config.num_shape_codes
    assert [image.size for image in output.images] == [(16, 16), (16, 16)]
    assert len(output.meshes) == len(output.health) == len(output.failures) == 2
    for mesh, health, failure in zip(output.meshes, output.health, output.failures, strict=True):
        assert (mesh is None) == (health is None) == (failure is not None)
        assert mesh is None or (mesh.is_watertight and health["watertight"])
    assert set(output.timings) == {"text_encoder", "transformer", "image_decoder", "shape_decoder", "mesh_health"}
    assert all(seconds > 0 for seconds in output.timings.values())


@pytest.fixture
def every_shape_is_a_ball(monkeypatch):
    """Random weights may give no surface at all."""
    monkeypatch.setattr(
        "omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query",
        lambda self, latents, queries: 0.7 - queries.norm(dim=-1),
    )


@pytest.mark.usefixtures("every_shape_is_a_ball")
def test_every_mode_of_extraction_gives_the_same_mesh_and_says_how(tiny_pipeline):
    meshes = {}
    for mode in ("dense", "safe", "fast"):
        output = tiny_pipeline(PROMPT, resolution=32, extraction=mode)
        (meshes[mode],), (report,) = output.meshes, output.extraction
        assert report["mode"] == mode and report["misses"] == 0 and report["points"] == 32**3
        assert (report["evaluated"] == 32**3) == (mode == "dense")
        assert np.array_equal(meshes[mode].vertices, meshes["dense"].vertices)
        assert np.array_equal(meshes[mode].faces, meshes["dense"].faces)
    assert tiny_pipeline(PROMPT, output_type="tokens").extraction is None


def test_images_are_the_decoded_tokens(tiny_pipeline):
    output = tiny_pipeline(PROMPT, resolution=16)
    with torch.no_grad():
        latent = tiny_pipeline.image_tokenizer.decode(output.image_tokens, grid=(4, 4))
        pixels = tiny_pipeline.image_vae.decode(latent)[0].clamp(-1, 1)
    expected = (pixels.permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(np.asarray(output.images[0], dtype=float) - expected).max() <= 0.51


def test_same_seed_same_tokens_and_another_seed_others(tiny_pipeline):
    one, same, other = (
        tiny_pipeline(PROMPT, temperature=1.0, seed=seed, output_type="tokens").image_tokens for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_batch_equals_single_prompts(tiny_pipeline):
    prompts = [PROMPT, "a blue car with four wheels and a small white mug"]
    batch = tiny_pipeline(prompts, output_type="tokens").shape_tokens
    single = [tiny_pipeline(prompt, output_type="tokens").shape_tokens[0] for prompt in prompts]
    assert torch.equal(batch, torch.stack(single))


def test_the_prompt_reaches_the_model_through_both_encoders(tiny_pipeline):
    one, other = tiny_pipeline.encode_prompt([PROMPT]), tiny_pipeline.encode_prompt(["a tall red vase"])
    assert one.text_embeds.shape[1] == 16 and one.text_embeds_2.shape[1] == 24
    assert one.text_attention_mask_2.sum() > other.text_attention_mask_2.sum() > 0
    assert not torch.allclose(one.text_embeds, other.text_embeds)
    assert not torch.allclose(one.text_embeds_2, other.text_embeds_2)


def test_tokens_output_decodes_nothing(tiny_pipeline):
    output = tiny_pipeline(PROMPT, output_type="tokens")
    assert output.images is None and output.meshes is None and output.health is None
    assert len(tiny_pipeline(PROMPT, output_type="tokens", return_dict=False)) == 3


def test_callbacks_count_every_token_and_every_field_point(tiny_pipeline):
    steps, points = [], []
    tiny_pipeline(
        PROMPT,
        resolution=16,
        callback_on_step_end=lambda pipeline, step, total, facts: steps.append((step, total, facts["modality"])),
        callback_on_extraction=lambda done, total: points.append((done, total)),
    )
    assert [step for step, _, _ in steps] == list(range(1, 25))
    assert {total for _, total, _ in steps} == {24}
    assert [modality for _, _, modality in steps] == ["image"] * 16 + ["shape"] * 8
    assert points[-1] == (16**3, 16**3)


def test_the_progress_bar_counts_tokens_and_can_be_switched_off(tiny_pipeline_folder, capfd):
    pipeline = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder)

    def shows_a_bar() -> bool:
        pipeline(PROMPT, output_type="tokens", seed=0)
        return "24/24" in capfd.readouterr().err

    enabled = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.enable_progress_bar()
    try:
        assert shows_a_bar()
        diffusers_logging.disable_progress_bar()
        assert not shows_a_bar()
        diffusers_logging.enable_progress_bar()
        pipeline.set_progress_bar_config(disable=True)
        assert not shows_a_bar()
    finally:
        if not enabled:
            diffusers_logging.disable_progress_bar()


def test_ranked_samples_carry_scores_among_those_of_their_prompt(tiny_pipeline):
    settings = {"num_samples": 3, "temperature": 1.0, "seed": 0, "resolution": 16}
    output = tiny_pipeline([PROMPT, "a chair"], rank_samples=True, **settings)
    assert len(output.scores) == 6 and "ranking" in output.timings
    expected = rank_candidates(
        tiny_pipeline,
        "a chair",
        output.image_tokens[3:],
        output.shape_tokens[3:],
        output.images[3:],
        output.meshes[3:],
    )
    assert output.scores[3:] == [
        -1.0 if mesh is None else score.score for score, mesh in zip(expected, output.meshes[3:], strict=True)
    ]
    assert tiny_pipeline(PROMPT, **settings).scores is None
    with pytest.raises(Omni123Error, match="rank_samples compares"):
        tiny_pipeline(PROMPT, rank_samples=True, order="shape-first", **settings)


@pytest.mark.usefixtures("every_shape_is_a_ball")
def test_a_face_budget_can_be_given_by_itself(tiny_pipeline):
    whole = tiny_pipeline(PROMPT, resolution=32, seed=0)
    budget = len(whole.meshes[0].faces) // 2
    small = tiny_pipeline(PROMPT, resolution=32, seed=0, target_faces=budget)
    assert len(small.meshes[0].faces) <= budget and small.health[0]["watertight"]
    with pytest.raises(Omni123Error, match="give one of them"):
        tiny_pipeline(PROMPT, seed=0, target_faces=budget, finish=FinishSettings(target_faces=budget + 2))


def test_an_empty_field_is_reported_and_not_hidden(tiny_pipeline, monkeypatch):
    monkeypatch.setattr(
        tiny_pipeline.shape_tokenizer, "query", lambda latents, queries: torch.full(queries.shape[:2], -1.0)
    )
    output = tiny_pipeline(PROMPT, resolution=16)
    assert output.meshes == [None] and output.health == [None]
    assert "inside" in output.failures[0]
    assert output.images[0] is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "   "}, "prompt is empty"),
        ({"prompt": []}, "non-empty list"),
        ({"prompt": ["a vase", ""]}, "prompt is empty"),
        ({"prompt": "very " * 200 + "tall vase"}, "takes 24; shorten"),
        ({"guidance_scale": -1.0}, "guidance scale"),
        ({"guidance_scale": float("nan")}, "guidance scale"),
        ({"temperature": -0.1}, "temperature"),
        ({"guidance_schedule": "cosine"}, "guidance schedule"),
        ({"top_k": 0}, "top-k"),
        ({"top_p": 1.5}, "top-p"),
        ({"seed": -1}, "seed"),
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
        ({"output_type": "latent"}, "output type"),
        ({"resolution": 4}, "at least 16"),
        ({"extraction": "quick"}, "unknown extraction mode 'quick'"),
        ({"resolution": 100_000}, "use at most"),
    ],
)
def test_bad_input_gives_one_clear_line(tiny_pipeline, changes, message):
    arguments = {"prompt": PROMPT, "resolution": 16, **changes}
    with pytest.raises(Omni123Error, match=message) as caught:
        tiny_pipeline(**arguments)
    assert "\n" not in str(caught.value)


def test_the_suggested_resolution_is_accepted(monkeypatch):
    monkeypatch.setattr("omni123_hf.pipelines.pipeline_base.available_memory", lambda: 10**9)
    with pytest.raises(Omni123Error, match="use at most 250"):
        check_resolution(251)
    check_resolution(250)
    assert available_memory() > 0


def test_components_can_be_replaced_and_unknown_arguments_are_refused(tiny_pipeline, tiny_pipeline_folder):
    loaded = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder, transformer=tiny_pipeline.transformer)
    assert loaded.transformer is tiny_pipeline.transformer
    assert loaded.text_encoder is not tiny_pipeline.text_encoder
    with pytest.raises(Omni123Error, match="device_map"):
        Omni123JointPipeline.from_pretrained(tiny_pipeline_folder, device_map="auto")


def test_dtype_reaches_every_model(tiny_pipeline_folder):
    loaded = Omni123JointPipeline.from_pretrained(tiny_pipeline_folder, dtype=torch.bfloat16)
    assert loaded.transformer.dtype == loaded.text_encoder.dtype == loaded.image_vae.dtype == torch.bfloat16
    assert not loaded.transformer.training


def test_cached_files_of_the_control_group_count_as_free(tmp_path):
    (tmp_path / "memory.max").write_text("4000000\n")
    (tmp_path / "memory.current").write_text("3900000\n")
    (tmp_path / "memory.stat").write_text("anon 900000\ninactive_file 3000000\n")
    assert available_memory(tmp_path) == 3_100_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) > 3_100_000


def test_a_checkpoint_carries_its_own_default_guidance(tiny_pipeline, tmp_path, monkeypatch):
    assert tiny_pipeline.config["default_guidance_scale"] == 5.0
    copy = Omni123JointPipeline(**tiny_pipeline.components, default_guidance_scale=2.0)
    copy.save_pretrained(tmp_path / "copy")
    loaded = Omni123JointPipeline.from_pretrained(tmp_path / "copy")
    used = []
    generate_plan = loaded.transformer.generate_plan

    def recording(*args, guidance_scale, **kwargs):
        used.append(guidance_scale)
        return generate_plan(*args, guidance_scale=guidance_scale, **kwargs)

    monkeypatch.setattr(loaded.transformer, "generate_plan", recording)
    loaded("a red car", output_type="tokens")
    loaded("a red car", guidance_scale=9.0, output_type="tokens")
    assert used == [2.0, 9.0]
