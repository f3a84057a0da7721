"""A network of one convolution stands for U²-Net and its kin; without onnxruntime only its absence is tested."""

import sys

import numpy as np
import pytest
from PIL import Image
from tiny_onnx import write_darkness_network

from omni123_hf.data.synthesis.background import MaskRules
from omni123_hf.data.synthesis.onnx_background import OnnxBackground
from omni123_hf.errors import Omni123Error, RejectedError


def scene(object_colour: int = 20, background: int = 250) -> tuple[Image.Image, np.ndarray]:
    y, x = np.mgrid[:64, :80]
    mask = (x - 40) ** 2 + (y - 32) ** 2 < 18**2
    pixels = np.where(mask[..., None], object_colour, background) + np.zeros((1, 1, 3))
    return Image.fromarray(pixels.astype(np.uint8)), mask


def test_without_onnxruntime_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Omni123Error, match=r"pip install 'omni123-hf\[background\]'"):
        OnnxBackground(write_darkness_network(tmp_path / "net.onnx"))


class TestWithOnnxruntime:
    @pytest.fixture(autouse=True)
    def need_it(self):
        pytest.importorskip("onnxruntime")

    @pytest.mark.parametrize("kind", ["u2net", "birefnet", "isnet"])
    @pytest.mark.parametrize("size", [32, None])
    def test_the_object_is_what_the_network_says(self, tmp_path, kind, size):
        path = write_darkness_network(tmp_path / "net.onnx", kind == "birefnet", size)
        remover = OnnxBackground(path, kind)
        image, mask = scene()
        cutout = remover(image)
        assert cutout.mask.shape == (64, 80)
        assert (cutout.mask & mask).sum() / (cutout.mask | mask).sum() > 0.9
        assert cutout.confidence > 0.8 and MaskRules().check(cutout)["largest"] == 1.0
        assert remover.remover_id.startswith(f"onnx {kind} ")

    def test_the_file_names_the_remover(self, tmp_path):
        first, again, other = (
            OnnxBackground(write_darkness_network(tmp_path / f"{name}.onnx", gain=gain)).remover_id
            for name, gain in (("a", 4.0), ("b", 4.0), ("c", 5.0))
        )
        assert first == again != other

    def test_an_empty_picture_has_no_object_and_a_pale_one_no_confidence(self, tmp_path):
        remover = OnnxBackground(write_darkness_network(tmp_path / "net.onnx", gain=0.2), "isnet")
        blank, pale = remover(Image.new("RGB", (40, 40), "white")), remover(scene(60, 180)[0])
        assert not blank.mask.any() and blank.confidence == 0.0
        with pytest.raises(RejectedError, match="area 0.000"):
            MaskRules().check(blank)
        assert pale.mask.any() and pale.confidence < 0.6

    def test_what_is_no_such_network_is_named(self, tmp_path):
        with pytest.raises(Omni123Error, match="cannot read"):
            OnnxBackground(tmp_path / "none.onnx")
        (tmp_path / "text.onnx").write_text("hello")
        with pytest.raises(Omni123Error, match="no ONNX network"):
            OnnxBackground(tmp_path / "text.onnx")
        with pytest.raises(Omni123Error, match="u2net, isnet, birefnet"):
            OnnxBackground(tmp_path / "text.onnx", "sam")
        with pytest.raises(Omni123Error, match="removes backgrounds"):
            OnnxBackground(write_darkness_network(tmp_path / "two.onnx", channels=2))
        with pytest.raises(Omni123Error, match="birefnet"):
            OnnxBackground(write_darkness_network(tmp_path / "logit.onnx", is_logit=True))
