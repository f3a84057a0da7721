"""An adapter on `omni123-mini` learns a domain that the base has never seen, and the old domain stays (minutes)."""

import json
import sys

import pytest
from lora_domain import write_domain

from omni123_hf.cli.main import main


@pytest.mark.slow
def test_a_new_domain_improves_and_the_old_one_stays(tmp_path, capsys):
    """`omni123 train lora` with its defaults: 40 meshes to train on, 10 held out, against 52 held-out objects of the generator."""
    write_domain(tmp_path / "meshes")
    out = tmp_path / "adapter"
    command = ["train", "lora", "--data", str(tmp_path / "meshes"), "--licence", "CC0-1.0", "--out", str(out)]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--resolution", "48"])
    assert not caught.value.code, capsys.readouterr().err
    figures = json.loads((out / "results.json").read_text())["figures"]
    new, old = figures["new"], figures["old"]
    print(
        json.dumps({name: {k: v for k, v in each.items() if k != "each"} for name, each in figures.items()}),
        file=sys.stderr,
    )
    assert new["objects"] == 10 and old["objects"] > 40
    assert new["mean_loss"]["after"] < 0.92 * new["mean_loss"]["before"]
    assert all(losses["after"] < losses["before"] for losses in new["loss"].values())
    assert new["after"]["chamfer"] < 0.6 * new["before"]["chamfer"]
    assert new["after"]["volume_iou"] > 2 * new["before"]["volume_iou"]
    assert all(losses["after"] < 1.05 * losses["before"] for losses in old["loss"].values())
    assert old["after"]["chamfer"] < 1.05 * old["before"]["chamfer"]
