"""What counts as a complete checkpoint, which one is resumed from, and what is removed."""

import json
import shutil

import pytest
import torch

from omni123_hf.errors import Omni123Error
from omni123_hf.training.checkpoints import (
    COMPLETE_FILE,
    checkpoint_folder,
    commit_checkpoint,
    newest_complete_checkpoint,
    problem_of,
    remove_old_checkpoints,
    replace_folder,
    staging_folder,
    writing,
)


def write_checkpoint(output, step):
    staging = staging_folder(output, step)
    (staging / "shards").mkdir(parents=True)
    (staging / "model.safetensors").write_bytes(b"weights" * step)
    (staging / "shards" / "part_0").write_bytes(b"part")
    (staging / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    commit_checkpoint(staging, checkpoint_folder(output, step))
    return checkpoint_folder(output, step)


def test_the_newest_complete_checkpoint_by_step_is_taken(tmp_path):
    assert newest_complete_checkpoint(tmp_path / "nothing", pytest.fail) is None
    for step in (900, 1000, 50):
        write_checkpoint(tmp_path, step)
    assert newest_complete_checkpoint(tmp_path, pytest.fail) == checkpoint_folder(tmp_path, 1000)
    assert json.loads((tmp_path / "checkpoint-50" / COMPLETE_FILE).read_text())["files"]["shards/part_0"] == 4


def cut_short(folder):
    (folder / "model.safetensors").write_bytes(b"weig")


def lose_a_file(folder):
    (folder / "shards" / "part_0").unlink()


def lose_the_list_and_the_state(folder):
    (folder / COMPLETE_FILE).unlink()
    (folder / "trainer_state.json").unlink()


def cut_the_list(folder):
    (folder / COMPLETE_FILE).write_text('{"step": 8, "fil')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_short, "model.safetensors has 4 bytes instead of 56"),
        (lose_a_file, "shards/part_0 is missing"),
        (lose_the_list_and_the_state, "it has no complete.json"),
        (cut_the_list, "cannot be read"),
    ],
)
def test_a_broken_checkpoint_is_removed_aloud_and_the_one_before_is_taken(tmp_path, damage, said):
    write_checkpoint(tmp_path, 4)
    damage(write_checkpoint(tmp_path, 8))
    reports = []
    assert newest_complete_checkpoint(tmp_path, reports.append) == checkpoint_folder(tmp_path, 4)
    assert not checkpoint_folder(tmp_path, 8).exists()
    (report,) = reports
    assert "checkpoint-8" in report and said in report


def test_what_was_being_written_is_removed_and_never_taken(tmp_path):
    (staging_folder(tmp_path, 12) / "model").mkdir(parents=True)
    reports = []
    assert newest_complete_checkpoint(tmp_path, reports.append) is None
    assert len(reports) == 1 and not list(tmp_path.iterdir())


def test_checkpoints_of_another_version_are_neither_taken_nor_removed(tmp_path):
    (write_checkpoint(tmp_path, 8) / COMPLETE_FILE).unlink()
    with pytest.raises(Omni123Error, match="checkpoint-8 was not written by this version"):
        newest_complete_checkpoint(tmp_path, pytest.fail)
    write_checkpoint(tmp_path, 4)
    reports = []
    assert newest_complete_checkpoint(tmp_path, reports.append) == checkpoint_folder(tmp_path, 4)
    assert "ignored" in reports[0] and checkpoint_folder(tmp_path, 8).exists()


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 10):
        write_checkpoint(tmp_path, step)
    remove_old_checkpoints(tmp_path, None, None)
    assert len(list(tmp_path.iterdir())) == 4
    remove_old_checkpoints(tmp_path, 2, str(checkpoint_folder(tmp_path, 1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-10"]
    remove_old_checkpoints(tmp_path, 1, str(checkpoint_folder(tmp_path, 1)))
    assert len(list(tmp_path.iterdir())) == 2
    remove_old_checkpoints(tmp_path, 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_removal_that_is_cut_off_leaves_a_checkpoint_that_counts_as_broken(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path, 1)
    write_checkpoint(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: None)
        remove_old_checkpoints(tmp_path, 1, None)
    assert problem_of(folder) == "trainer_state.json is missing"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "final"

    def write(text, fail=False):
        def inner(place):
            place.mkdir()
            (place / "a").write_text(text)
            if fail:
                raise OSError(28, "No space left on device")

        return inner

    replace_folder(folder, write("one"))
    with pytest.raises(Omni123Error, match=r"final \(No space left on device\): nothing lost"):
        with writing(folder, "nothing lost"):
            replace_folder(folder, write("two", fail=True))
    assert (folder / "a").read_text() == "one"
    replace_folder(folder, write("three"))
    assert (folder / "a").read_text() == "three"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_only_failed_writes_are_renamed(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        with writing(tmp_path, "-"):
            raise RuntimeError("a bug")
    with pytest.raises(Omni123Error, match="MB are free there"):
        with writing(tmp_path / "final", "-"):
            # torch hides the reason from its callers.
            torch.save({"a": torch.ones(3)}, "/dev/full")
