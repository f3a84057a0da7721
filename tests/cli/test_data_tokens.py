"""`omni123 data tokenize`, `token-stats` and `push-tokens` as a user runs them."""

import json
import shutil
import socket

import pytest
from tiny_prepared import write_tiny_edits, write_tiny_pictures
from tiny_store import write_tiny_store

from omni123_hf.cli.main import main
from omni123_hf.data.shards.reader import TokenShards


def call(*arguments: object) -> int:
    """Exit code of the command with these arguments."""
    with pytest.raises(SystemExit) as caught:
        main(["data", *(str(argument) for argument in arguments)])
    return caught.value.code or 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared data set, read only."""
    return write_tiny_store(tmp_path_factory.mktemp("data") / "store").folder


@pytest.fixture(scope="module")
def written(data, tiny_pipeline_folder, tmp_path_factory):
    """Shards as the command writes them, read only."""
    out = tmp_path_factory.mktemp("out") / "shards"
    options = ("--shards", 2, "--view", "three_quarter", "--view", "front", "--text-embeddings")
    assert call("tokenize", data, "--checkpoint", tiny_pipeline_folder, "--out", out, *options) == 0
    return out


def test_tokenize_writes_shards_that_name_their_checkpoint(written, data, tiny_pipeline_folder, capsys):
    shards = TokenShards.open(written, verify=True)
    shards.check_checkpoint(tiny_pipeline_folder)
    pool = shards["pairs"]
    assert pool.layout.views() == ["three_quarter", "front"] and len(pool.shards_of("train")) == 2
    assert pool.info.origin["checkpoint"].startswith("tiny (revision ")
    assert str(written.parent) not in (written / "shards.json").read_text()
    assert set(pool.text_embeddings(0)) == {"text_encoder", "text_encoder_2"}


def test_pools_of_every_kind_of_folder_go_into_one_place(data, tiny_pipeline_folder, tmp_path, capsys):
    pictures = [write_tiny_pictures(tmp_path / name, 4, name).folder for name in ("photo", "drawing")]
    edits = write_tiny_edits(tmp_path).folder
    common = ("--checkpoint", tiny_pipeline_folder, "--out", tmp_path / "out")
    assert call("tokenize", *pictures, data, *common, "--view", "front") == 0
    text = capsys.readouterr().out
    assert "images: 24 records of 16 codes" in text and text.count("of pictures") == 2 and "of assets" in text
    assert call("tokenize", edits, *common) == 0
    assert "edits: 10 records of 16 codes" in capsys.readouterr().out
    assert call("tokenize", data, *common) == 0
    shards = TokenShards.open(tmp_path / "out", verify=True)
    assert list(shards.pools) == ["images", "pairs", "edits"]
    shards.check_checkpoint(tiny_pipeline_folder)
    before = (tmp_path / "out/shards.json").read_bytes()
    assert call("tokenize", *pictures[::-1], data, *common, "--view", "front") == 0, "a finished pool is left as it is"
    assert (tmp_path / "out/shards.json").read_bytes() == before
    assert call("tokenize", *pictures, *common) == 2
    assert "holds shards of another run" in capsys.readouterr().err
    assert call("tokenize", pictures[0], edits, *common) == 2
    assert "into different pools; tokenize each in a call of its own" in capsys.readouterr().err


def test_token_stats_in_words_and_as_json(written, capsys):
    assert call("token-stats", written, "--verify") == 0
    text = capsys.readouterr().out
    assert "16 records of 40 codes" in text and "CC0-1.0" in text and "of its codes used" in text
    assert call("token-stats", written, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pairs"]["splits"] == {"train": 12, "validation": 4} and facts["pairs"]["shards"] == 3
    assert 0 < facts["pairs"]["code_use"]["shape_tokens"] <= 1


def test_stats_of_shards_are_those_of_token_stats(written, capsys):
    for options in ((), ("--json",)):
        assert call("token-stats", written, *options) == 0
        by_its_own_command = capsys.readouterr().out
        assert call("stats", written, *options) == 0
        assert capsys.readouterr().out == by_its_own_command


def test_without_a_network_an_upload_is_one_error(written, monkeypatch, capsys):
    # A port where nobody listens; the endpoint was read when the library was imported.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for arguments, message in (
        (("push-tokens", written, "someone/x"), "cannot upload to 'someone/x'"),
        (("token-stats", "someone/no-such-shards"), "cannot download 'someone/no-such-shards'"),
    ):
        assert call(*arguments) == 2, arguments
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("error: ") and message in last
    assert not list(written.glob(".hub-*"))


def test_bad_input_is_one_line_and_leaves_nothing(data, written, tiny_pipeline_folder, tmp_path, capsys):
    out = tmp_path / "out"
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_pipeline_folder, damaged)
    (damaged / "shape_tokenizer/model.safetensors").write_bytes(b"xx")
    changed = tmp_path / "changed"
    shutil.copytree(written, changed)
    (changed / "pairs/train-00000.bin").write_bytes(b"x")
    good = ("--checkpoint", tiny_pipeline_folder, "--out", out)
    for arguments, message in (
        (("tokenize", tmp_path, *good), "no finished data set"),
        (("tokenize", data, "--checkpoint", "no such", "--out", out), "unknown checkpoint"),
        (("tokenize", data, "--checkpoint", damaged, "--out", out), "corrupt or truncated"),
        (("tokenize", data, "--checkpoint", "omni123-mini", "--out", out), "views of 16 pixels"),
        (("tokenize", data, *good, "--pool", "meshes"), "fill no pool 'meshes'"),
        (("tokenize", data, *good, "--shards", 13), "cannot fill 13 shards"),
        (("tokenize", data, "--checkpoint", tiny_pipeline_folder, "--out", written), "shards of another run"),
        (("token-stats", tmp_path), "no finished token shards"),
        (("token-stats", changed), "is damaged"),
        (("push-tokens", changed, "someone/x"), "is damaged"),
    ):
        assert call(*arguments) == 2, arguments
        lines = capsys.readouterr().err.strip().splitlines()
        assert message in lines[-1] and lines[-1].startswith("error: "), lines
        assert not out.exists()
