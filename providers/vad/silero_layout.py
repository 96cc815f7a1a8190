"""Silero's network, laid out for batches (pure): the published model in, two that together give the same and work with large matrices out.

The published graph convolves each window of a batch by itself, four positions at a time, which leaves a processor's vector units
waiting. Here each layer is one product of matrices for the whole batch: the first convolution has a row for each position, the later
ones, with few positions, a matrix over all of them. All but the recurrent cell, which alone has a memory, is a graph of its own: it
takes several windows of a listener at once. The weights are the published ones: nothing is trained, rounded or left out.

A model is a protocol buffer (onnx.proto3 of the ONNX specification, whose field numbers these are); the few messages that are
needed here are read and written by hand, because the package `onnx` is larger than the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]

_IR_VERSION: Final = 8
_OPSET: Final = 17
_FLOAT, _INT64 = 1, 7
_HOP, _BLOCKS, _FRAMES, _BINS, _UNITS = 128, 5, 4, 129, 128
_STRIDES: Final = (2, 2, 1)  # of the second convolution and those behind it
_BRANCH: Final = "then_branch"
"""Of the published graph: the network for 16 kHz."""
_SHAPES: Final = {
    "stft.forward_basis_buffer": (258, 1, 256),
    "encoder.0.reparam_conv.weight": (128, 129, 3),
    "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.weight": (128, 64, 3),
    "encoder.3.reparam_conv.bias": (128,),
    "decoder.rnn.weight_ih": (512, 128),
    "decoder.rnn.weight_hh": (512, 128),
    "decoder.rnn.bias_ih": (512,),
    "decoder.rnn.bias_hh": (512,),
    "decoder.decoder.2.weight": (1, 128, 1),
    "decoder.decoder.2.bias": (1,),
}


class UnknownLayout(Exception):
    """The model is not built as this module knows it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Two ONNX models."""

    front: bytes
    """``input``, windows [n, 576], to ``drive`` [n, 512]."""
    cell: bytes
    """``drive`` [b, 512] and ``state`` [2, b, 128] to ``output``, probabilities [b, 1], and ``stateN``."""


def laid_out(model: bytes) -> Layout:
    """The published model for batches. Raises UnknownLayout."""
    try:
        weights = _weights(model)
    except (IndexError, OverflowError, ValueError) as error:
        raise UnknownLayout(f"not an ONNX model: {error}") from error
    drive, state = _value("drive", ("b", 4 * _UNITS)), _value("state", (2, "b", _UNITS))
    return Layout(
        front=_model(_front(weights), inputs=[_value("input", ("b", 576))], outputs=[drive]),
        cell=_model(_cell(weights), inputs=[drive, state], outputs=[_value("output", ("b", 1)), _value("stateN", (2, "b", _UNITS))]),
    )


# -- the network -----------------------------------------------------------------------------------------------------------
def _front(weights: dict[str, _Floats]) -> Iterator[bytes]:
    """The fields of the graph, constants and nodes: spectrum, four convolutions, and what they mean to the cell's gates."""
    yield from _spectrum(weights["stft.forward_basis_buffer"])
    yield from _first_convolution(weights["encoder.0.reparam_conv.weight"], weights["encoder.0.reparam_conv.bias"])
    positions = _FRAMES
    for number, stride in enumerate(_STRIDES, 1):
        matrix, positions = _as_matrix(weights[f"encoder.{number}.reparam_conv.weight"], positions=positions, stride=stride)
        yield _constant(f"kernel{number}", matrix)
        yield _constant(f"bias{number}", np.tile(weights[f"encoder.{number}.reparam_conv.bias"], positions))
        yield _node("Gemm", (f"layer{number - 1}", f"kernel{number}", f"bias{number}"), (f"sum{number}",))
        yield _node("Relu", (f"sum{number}",), (f"layer{number}",))
    yield _constant("drive_kernel", weights["decoder.rnn.weight_ih"].T)
    yield _constant("drive_bias", weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"])
    yield _node("Gemm", ("layer3", "drive_kernel", "drive_bias"), ("drive",))


def _spectrum(basis: _Floats) -> Iterator[bytes]:
    """``magnitude`` [b, 4, 129] of four frames, each of two neighbouring blocks of 128 samples.

    Windowed cosines are even about the middle of a frame and sines odd: folded there, a frame is half as long.
    """
    cosines, sines = basis[:_BINS, 0], basis[_BINS:, 0]
    beyond = slice(255, 128, -1)
    if basis[:, 0, 0].any() or (cosines[:, 1:128] != cosines[:, beyond]).any() or (sines[:, 1:128] != -sines[:, beyond]).any():
        raise UnknownLayout("the spectrum is not a Fourier transform as this module knows it")
    yield _constant("cosines", cosines[:, 1:129].T)
    yield _constant("sines", sines[:, 1:128].T)
    yield _constant("padding", np.array([0, 0, 0, _HOP // 2], np.int64))
    yield _node("Pad", ("input", "padding"), ("padded",), _text("mode", "reflect"))
    yield _constant("as_blocks", np.array([-1, _BLOCKS, _HOP], np.int64))
    yield _node("Reshape", ("padded", "as_blocks"), ("blocks",))
    for name, start in (("earlier", 0), ("later", 1)):
        yield _constant(f"{name}_start", np.array([start], np.int64))
        yield _constant(f"{name}_end", np.array([start + _FRAMES], np.int64))
        yield _node("Slice", ("blocks", f"{name}_start", f"{name}_end", "axis1"), (name,))
    yield _constant("axis1", np.array([1], np.int64))
    yield _node("Concat", ("earlier", "later"), ("frames",), _number("axis", 2))
    yield _constant("as_frames", np.array([-1, 2 * _HOP], np.int64))
    yield _node("Reshape", ("frames", "as_frames"), ("rows",))
    for name, start, end, step in (("rising", 1, 128, 1), ("falling", 255, 128, -1), ("centre", 128, 129, 1)):
        for part, value in (("start", start), ("end", end), ("step", step)):
            yield _constant(f"{name}_{part}", np.array([value], np.int64))
        yield _node("Slice", ("rows", f"{name}_start", f"{name}_end", "axis1", f"{name}_step"), (name,))
    yield _node("Add", ("rising", "falling"), ("even_but_centre",))
    yield _node("Concat", ("even_but_centre", "centre"), ("even",), _number("axis", 1))
    yield _node("Sub", ("rising", "falling"), ("odd",))
    yield _node("MatMul", ("even", "cosines"), ("real",))
    yield _node("MatMul", ("odd", "sines"), ("imaginary",))
    yield _node("Mul", ("real", "real"), ("real2",))
    yield _node("Mul", ("imaginary", "imaginary"), ("imaginary2",))
    yield _node("Add", ("real2", "imaginary2"), ("power",))
    yield _node("Sqrt", ("power",), ("root",))
    yield _constant("as_positions", np.array([-1, _FRAMES, _BINS], np.int64))
    yield _node("Reshape", ("root", "as_positions"), ("magnitude",))


def _first_convolution(kernel: _Floats, bias: _Floats) -> Iterator[bytes]:
    """``layer0`` [b, 4 * 128]: each position with its two neighbours is a row. As one matrix it would not fit into a core's cache."""
    outputs, inputs, width = kernel.shape
    yield _constant("around", np.array([0, 1, 0, 0, 1, 0], np.int64))
    yield _node("Pad", ("magnitude", "around"), ("surrounded",))
    for tap in range(width):
        yield _constant(f"tap{tap}_start", np.array([tap], np.int64))
        yield _constant(f"tap{tap}_end", np.array([tap + _FRAMES], np.int64))
        yield _node("Slice", ("surrounded", f"tap{tap}_start", f"tap{tap}_end", "axis1"), (f"tap{tap}",))
    yield _node("Concat", tuple(f"tap{tap}" for tap in range(width)), ("taps",), _number("axis", 2))
    yield _constant("as_taps", np.array([-1, width * inputs], np.int64))
    yield _node("Reshape", ("taps", "as_taps"), ("tap_rows",))
    yield _constant("kernel0", kernel.transpose(2, 1, 0).reshape(width * inputs, outputs))
    yield _constant("bias0", bias)
    yield _node("Gemm", ("tap_rows", "kernel0", "bias0"), ("sum0",))
    yield _node("Relu", ("sum0",), ("positions0",))
    yield _constant("as_layer", np.array([-1, _FRAMES * outputs], np.int64))
    yield _node("Reshape", ("positions0", "as_layer"), ("layer0",))


def _cell(weights: dict[str, _Floats]) -> Iterator[bytes]:
    """The recurrent cell (input, forget, cell and output gate, in this order) and the output."""
    yield _constant("gates_kernel", weights["decoder.rnn.weight_hh"].T)
    yield _constant("output_kernel", weights["decoder.decoder.2.weight"][0])
    yield _constant("output_bias", weights["decoder.decoder.2.bias"])
    yield _constant("axis0", np.array([0], np.int64))
    yield _node("Split", ("state",), ("hidden_1", "cell_1"), _number("axis", 0))
    yield _node("Squeeze", ("hidden_1", "axis0"), ("hidden",))
    yield _node("Squeeze", ("cell_1", "axis0"), ("cell",))
    yield _node("Gemm", ("hidden", "gates_kernel", "drive"), ("gates",))
    yield _node("Split", ("gates",), ("i", "f", "g", "o"), _number("axis", 1))
    for gate, function in (("i", "Sigmoid"), ("f", "Sigmoid"), ("g", "Tanh"), ("o", "Sigmoid")):
        yield _node(function, (gate,), (f"{gate}_open",))
    yield _node("Mul", ("f_open", "cell"), ("kept",))
    yield _node("Mul", ("i_open", "g_open"), ("new",))
    yield _node("Add", ("kept", "new"), ("cell_after",))
    yield _node("Tanh", ("cell_after",), ("told",))
    yield _node("Mul", ("o_open", "told"), ("hidden_after",))
    yield _node("Unsqueeze", ("hidden_after", "axis0"), ("hidden_after_1",))
    yield _node("Unsqueeze", ("cell_after", "axis0"), ("cell_after_1",))
    yield _node("Concat", ("hidden_after_1", "cell_after_1"), ("stateN",), _number("axis", 0))
    yield _node("Relu", ("hidden_after",), ("heard",))
    yield _node("Gemm", ("heard", "output_kernel", "output_bias"), ("logit",))
    yield _node("Sigmoid", ("logit",), ("output",))


def _as_matrix(kernel: _Floats, *, positions: int, stride: int) -> tuple[_Floats, int]:
    """A convolution of width 3, padded by one zero on both sides, as a matrix [positions * in, after * out]; and ``after``."""
    outputs, inputs, width = kernel.shape
    after = (positions - 1) // stride + 1
    matrix = np.zeros((positions, inputs, after, outputs), np.float32)
    for to in range(after):
        for tap in range(width):
            at = to * stride + tap - 1
            if 0 <= at < positions:
                matrix[at, :, to] = kernel[:, :, tap].T
    return matrix.reshape(positions * inputs, after * outputs), after


# -- reading ---------------------------------------------------------------------------------------------------------------
def _weights(model: bytes) -> dict[str, _Floats]:
    """The constants of the network for 16 kHz by the ends of their names. Raises UnknownLayout."""
    found: dict[str, _Floats] = {}
    for name, tensor in _constants(_one(model, 7)):
        place, _, last = name.rpartition("__")
        if last in _SHAPES and _BRANCH in place:
            found[last] = tensor
    if {name: weight.shape for name, weight in found.items()} != _SHAPES:
        raise UnknownLayout("other layers than those of Silero 5 and 6 at 16 kHz")
    return found


def _constants(graph: bytes) -> Iterator[tuple[str, _Floats]]:
    """Names and values of all float constants of a graph and of the graphs inside it."""
    for node in _all(graph, 1):
        for attribute in _all(node, 5):
            for inner in _all(attribute, 6):
                yield from _constants(inner)
            for tensor in _all(attribute, 5):
                raw = b"".join(_all(tensor, 9))
                if raw and [value for number, value in _fields(tensor) if number == 2] == [_FLOAT]:
                    yield _one(node, 2).decode(), np.frombuffer(raw, "<f4").reshape(_dimensions(tensor))


def _dimensions(tensor: bytes) -> list[int]:
    found: list[int] = []
    for number, value in _fields(tensor):
        if number == 1 and isinstance(value, int):
            found.append(value)
        elif number == 1 and isinstance(value, bytes):  # packed
            position = 0
            while position < len(value):
                one, position = _read_varint(value, position)
                found.append(one)
    return found


def _all(message: bytes, wanted: int) -> Iterator[bytes]:
    return (value for number, value in _fields(message) if number == wanted and isinstance(value, bytes))


def _one(message: bytes, wanted: int) -> bytes:
    return next(_all(message, wanted), b"")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field. Raises ValueError or IndexError for what is no protocol buffer."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _read_varint(message, position)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + size > len(message):
            raise ValueError("it is cut off")
        yield number, message[position : position + size]
        position += size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


# -- writing ---------------------------------------------------------------------------------------------------------------
def _model(graph: Iterable[bytes], *, inputs: Iterable[bytes], outputs: Iterable[bytes]) -> bytes:
    parts = (*graph, _bytes(2, b"silero"), *(_bytes(11, value) for value in inputs), *(_bytes(12, value) for value in outputs))
    opset = _bytes(1, b"") + _int(2, _OPSET)
    return _int(1, _IR_VERSION) + _bytes(7, b"".join(parts)) + _bytes(8, opset)


def _value(name: str, shape: tuple[int | str, ...]) -> bytes:
    """A named float tensor; dimensions that are names may have any size."""
    dimensions = (_int(1, size) if isinstance(size, int) else _bytes(2, size.encode()) for size in shape)
    tensor = _int(1, _FLOAT) + _bytes(2, b"".join(_bytes(1, one) for one in dimensions))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _constant(name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    kind, order = (_FLOAT, "<f4") if values.dtype == np.float32 else (_INT64, "<i8")
    sizes = b"".join(_int(1, size) for size in values.shape)
    return _bytes(5, sizes + _int(2, kind) + _bytes(8, name.encode()) + _bytes(9, values.astype(order).tobytes()))


def _node(operator: str, inputs: tuple[str, ...], outputs: tuple[str, ...], *attributes: bytes) -> bytes:
    names = b"".join(_bytes(1, name.encode()) for name in inputs) + b"".join(_bytes(2, name.encode()) for name in outputs)
    return _bytes(1, names + _bytes(4, operator.encode()) + b"".join(_bytes(5, attribute) for attribute in attributes))


def _number(name: str, value: int) -> bytes:
    return _bytes(1, name.encode()) + _int(3, value) + _int(20, 2)


def _text(name: str, value: str) -> bytes:
    return _bytes(1, name.encode()) + _bytes(4, value.encode()) + _int(20, 3)


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(written) + bytes((value,))
