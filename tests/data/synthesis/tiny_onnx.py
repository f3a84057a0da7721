"""A real ONNX network of one convolution, written by hand: the format is protobuf, and this saves the package `onnx`."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_darkness_network(
    path: Path, is_logit: bool = False, size: int | None = 16, channels: int = 1, gain: float = 4.0
) -> Path:
    """(1,3,size,size) to (1,channels,size,size): the darker a pixel, the more it is object. size None: any."""
    weights = np.full((channels, 3, 1, 1), -gain, dtype=np.float32)
    convolved = "answer" if is_logit else "logit"
    nodes = [_node("Conv", ["picture", "weights"], convolved)]
    if not is_logit:
        nodes.append(_node("Sigmoid", ["logit"], "answer"))
    tensor = b"".join(_number(1, side) for side in weights.shape) + _number(2, 1) + _bytes(8, b"weights")
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"darkness")
    graph += _bytes(5, tensor + _bytes(9, weights.tobytes()))
    graph += _bytes(11, _value("picture", (1, 3, size, size))) + _bytes(
        12, _value("answer", (1, channels, size, size))
    )
    path.write_bytes(_number(1, 8) + _bytes(8, _bytes(1, b"") + _number(2, 17)) + _bytes(7, graph))
    return path


def _node(kind: str, inputs: list[str], output: str) -> bytes:
    return (
        b"".join(_bytes(1, each.encode()) for each in inputs) + _bytes(2, output.encode()) + _bytes(4, kind.encode())
    )


def _value(name: str, shape: tuple[int | None, ...]) -> bytes:
    sides = b"".join(_bytes(1, _bytes(2, b"side") if side is None else _number(1, side)) for side in shape)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, sides)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
