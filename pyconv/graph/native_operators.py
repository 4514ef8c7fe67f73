"""The native operators as the compiler sees them: the type each makes and what it costs.

The C++ checks the same when a program is built; the compiler has to know earlier, and without
packing weights. `lower` compares the two types at every step.

How operations are counted, for one image:

| operator | floating-point operations |
|---|---|
| `conv2d` | 2 · kernel height · kernel width · in / groups · out · output height · output width |
| `conv2d_transpose` | 2 · kernel height · kernel width · in / groups · out · height · width |
| `dense` | 2 · in · out, for each row |
| `matmul` | 2 · k an element |
| pools | window's elements · outputs; a global pool's window is the map |
| `softmax`, `log_softmax` | 5 an element: maximum, difference, exponential, sum, quotient |
| `activation` and arithmetic | 1 an element |
| `reduce`, `arg_max`, `arg_min` | 1 for each element that goes in |
| `resample` | 2 · taps - 1 an element |
| `layer_normalization` | 8 an element: mean, variance, difference, factor, scale, bias |
| `local_response_normalization` | size + 6 an element |
| `quantize`, `dequantize` | 2 an element |
| what only moves elements, and `cast` | 0 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyconv.errors import ModelError
from pyconv.graph.batch import Batch, BatchError, Dim, Shape, element_count, fixed, per_image, text

Attributes = Mapping[str, Any]
Infer = Callable[[Attributes, Sequence[Shape]], Shape]
Flops = Callable[[Attributes, Sequence[Shape], Shape], int]
InferDtype = Callable[[Attributes, Sequence[str]], str]


class DtypeError(Exception):
    """Operands of element types that an operator does not take.

    Attributes:
        dtype: the one that it does not take.
    """

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self.dtype = dtype


def _float32(attributes: Attributes, inputs: Sequence[str]) -> str:
    """The dtype of what float32 alone goes into."""
    for dtype in inputs:
        if dtype != "float32":
            raise DtypeError(dtype)
    return "float32"


@dataclass(frozen=True, slots=True)
class NativeOperator:
    """What the compiler knows of a native operator.

    Attributes:
        infer: the output's shape from attributes and input shapes. Raises ModelError where they do
            not fit, BatchError where they do not for every batch size.
        flops: operations for one image, from attributes, input shapes and the output's shape.
        dtype: the output's element type from attributes and those of the inputs. Raises DtypeError
            where they do not fit.
    """

    infer: Infer
    flops: Flops
    dtype: InferDtype = _float32


def infer_dtype(op: str, attributes: Attributes, inputs: Sequence[str]) -> str:
    """The element type that an operator makes.

    Raises:
        DtypeError: of inputs of these types it makes nothing.
    """
    return NATIVE_OPERATORS[op].dtype(attributes, inputs)


def infer(op: str, attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    """The shape that an operator makes."""
    return NATIVE_OPERATORS[op].infer(attributes, inputs)


def flops(op: str, attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    """The floating-point operations of an operator for one image, by the rule above."""
    return NATIVE_OPERATORS[op].flops(attributes, inputs, output)


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of two operands' broadcast.

    Raises:
        ModelError: they do not broadcast.
        BatchError: whether they do depends on the batch.
    """
    rank = max(len(a), len(b))
    full_a: Shape = (1,) * (rank - len(a)) + a
    full_b: Shape = (1,) * (rank - len(b)) + b
    result: list[Dim] = []
    for p, q in zip(full_a, full_b, strict=True):
        if p == q or q == 1:
            result.append(p)
        elif p == 1:
            result.append(q)
        elif isinstance(p, Batch) or isinstance(q, Batch):
            raise BatchError(f"{text(a)} broadcast with {text(b)}")
        else:
            raise ModelError(f"the shapes {text(a)} and {text(b)} do not broadcast")
    return tuple(result)


def _same(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    return inputs[0]


def _axis(attributes: Attributes, x: Shape, default: int) -> int:
    axis = attributes.get("axis", default)
    if not -len(x) <= axis < len(x):
        raise ModelError(f"axis {axis} does not exist in the shape {text(x)}")
    return int(axis % len(x))


def _softmax(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    if isinstance(x[_axis(attributes, x, -1)], Batch):
        raise BatchError("softmax over the batch")
    return x


def window_output(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], ceil_mode: bool
) -> int:
    """How many outputs a sliding window has along one axis, as ONNX's Conv and MaxPool say.

    With `ceil_mode` a last window may hang over the end, by less than a stride, if it starts before
    it: the only one too.
    """
    room = size + sum(pads) - ((kernel - 1) * dilation + 1)
    if not ceil_mode:
        return room // stride + 1 if room >= 0 else 0
    if room <= -stride:
        return 0
    outputs = -(-room // stride) + 1
    return outputs - 1 if (outputs - 1) * stride >= size + pads[0] else outputs


def _window(attributes: Attributes, x: Shape, kernel: Sequence[int], channels: Dim) -> Shape:
    if len(x) != 4:
        raise ModelError(f"expected (n, height, width, channels), got {text(x)}")
    strides = attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0, 0, 0, 0])
    ceil_mode = bool(attributes.get("ceil_mode", 0))
    sizes = [
        window_output(
            fixed(x[1 + i]), kernel[i], strides[i], dilations[i], (pads[i], pads[2 + i]), ceil_mode
        )
        for i in range(2)
    ]
    if min(sizes) < 1:
        raise ModelError(
            f"a window of {kernel[0]}×{kernel[1]} (dilations {list(dilations)}, pads {list(pads)}) "
            f"does not fit into the map {text(x)}"
        )
    return (x[0], sizes[0], sizes[1], channels)


def _conv2d_map(attributes: Attributes, x: Shape) -> Shape:
    """The shape before the pool that may be fused into it."""
    kernel = attributes["kernel"].shape
    groups = attributes.get("groups", 1)
    if attributes.get("channels_first") and len(x) == 4:
        x = (x[0], x[2], x[3], x[1])
    if len(x) == 4 and (x[3] != kernel[2] * groups or groups < 1 or kernel[3] % groups):
        raise ModelError(
            f"a kernel of {kernel[2]} · {groups} input channels and {kernel[3]} filters "
            f"in {groups} groups does not fit x of shape {text(x)}"
        )
    return _window(attributes, x, kernel[:2], kernel[3])


def _conv2d(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    result = _conv2d_map(attributes, inputs[0])
    if "pool_size" in attributes:
        pool = {"strides": attributes["pool_strides"]}
        result = _window(pool, result, attributes["pool_size"], result[3])
    if attributes.get("output_channels_first"):
        return (result[0], result[3], *result[1:3])
    return result


def _conv2d_flops(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    _, height, width, _ = _conv2d_map(attributes, inputs[0])
    return 2 * int(attributes["kernel"].size) * fixed(height) * fixed(width)


def _conv2d_transpose(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    kernel = attributes["kernel"].shape
    groups = attributes.get("groups", 1)
    if len(x) != 4 or x[3] != kernel[2] * groups or kernel[3] % groups:
        raise ModelError(
            f"a kernel of {kernel[2]} · {groups} input channels and {kernel[3]} filters "
            f"in {groups} groups does not fit x of shape {text(x)}"
        )
    strides = attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0, 0, 0, 0])
    extra = attributes.get("output_padding", [0, 0])
    sizes = [
        (fixed(x[1 + i]) - 1) * strides[i]
        + (kernel[i] - 1) * dilations[i]
        + 1
        + extra[i]
        - pads[i]
        - pads[2 + i]
        for i in range(2)
    ]
    if min(sizes) < 1 or 0 in x[1:3]:
        raise ModelError(f"pads {list(pads)} leave nothing of the map {text(x)}")
    return (x[0], sizes[0], sizes[1], kernel[3])


def _conv2d_transpose_flops(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    _, height, width, _ = inputs[0]
    return 2 * int(attributes["kernel"].size) * fixed(height) * fixed(width)


def _pool2d(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    return _window(attributes, x, attributes["kernel_size"], x[-1])


def _pool2d_flops(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    height, width = attributes["kernel_size"]
    return int(height) * int(width) * per_image(output)


def _global_pool2d(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    if len(x) != 4 or 0 in x[1:3]:
        raise ModelError(f"expected (n, height, width, channels), got {text(x)}")
    return (x[0], 1, 1, x[3])


def _dense(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    weights = attributes["weights"].shape
    if x and isinstance(x[-1], Batch):
        raise BatchError(f"a matrix product over the batch of {text(x)}")
    if not x or x[-1] != weights[0]:
        raise ModelError(f"a matrix of shape {weights} does not fit x of shape {text(x)}")
    return (*x[:-1], weights[1])


def _dense_flops(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    return 2 * per_image(output) * int(attributes["weights"].shape[0])


def _matmul(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    a, b = inputs
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ModelError(f"matrices of the shapes {text(a)} and {text(b)} do not fit")
    if isinstance(b[-1], Batch) or (len(a) == 2 and len(b) > 2 and isinstance(a[0], Batch)):
        raise BatchError(f"a product of {text(a)} and {text(b)}")
    if len(b) == 2 and isinstance(b[0], Batch):
        raise BatchError(f"a matrix product over the batch of {text(b)}")
    return (*broadcast(a[:-2], b[:-2]), a[-2], b[-1])


def _matmul_flops(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    return 2 * fixed(inputs[0][-1]) * per_image(output)


def _binary(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    return broadcast(inputs[0], inputs[1])


def _concat(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    axis = _axis(attributes, inputs[0], 0)
    total: Dim = 0
    for shape in inputs:
        if len(shape) != len(inputs[0]) or any(
            p != q for i, (p, q) in enumerate(zip(shape, inputs[0], strict=True)) if i != axis
        ):
            if any(isinstance(size, Batch) for size in (*shape, *inputs[0])):
                raise BatchError("concatenation of a batch and a fixed size")
            raise ModelError(
                f"expected shapes alike but for axis {axis}, got "
                + " and ".join(text(each) for each in inputs)
            )
        if isinstance(shape[axis], Batch):
            raise BatchError("concatenation along the batch")
        total = fixed(total) + fixed(shape[axis])
    return (*inputs[0][:axis], total, *inputs[0][axis + 1 :])


def _transpose(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    permutation = attributes["permutation"]
    if sorted(permutation) != list(range(len(x))):
        raise ModelError(f"the permutation {list(permutation)} does not fit the shape {text(x)}")
    return tuple(x[axis] for axis in permutation)


def _reshape(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    shape: Shape = tuple(attributes["shape"])
    if element_count(shape) != element_count(x):
        if any(isinstance(size, Batch) for size in (*x, *shape)):
            raise BatchError(f"{text(x)} in the shape {text(shape)}")
        raise ModelError(f"a tensor of shape {text(x)} does not fit into the shape {text(shape)}")
    return shape


def _pad(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    pads = attributes["pads"]
    sizes = [
        size if begin == end == 0 else fixed(size) + begin + end
        for size, begin, end in zip(x, pads[: len(x)], pads[len(x) :], strict=True)
    ]
    if any(not isinstance(size, Batch) and size < 0 for size in sizes):
        raise ModelError(f"pads {list(pads)} take more than there is in the shape {text(x)}")
    return tuple(sizes)


def _slice(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    return tuple(attributes["sizes"])


def _reduce(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    axes = set(attributes["axes"])
    if any(isinstance(x[axis], Batch) for axis in axes):
        raise BatchError("a reduction over the batch")
    if attributes.get("keepdims", 1):
        return tuple(1 if axis in axes else size for axis, size in enumerate(x))
    return tuple(size for axis, size in enumerate(x) if axis not in axes)


def _resample(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    sizes = list(inputs[0])
    fixed(sizes[attributes["axis"]])
    sizes[attributes["axis"]] = attributes["weights"].shape[0]
    return tuple(sizes)


def _resample_flops(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    return (2 * int(attributes["weights"].shape[1]) - 1) * per_image(output)


def _layer_normalization(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    if any(isinstance(size, Batch) for size in x[_axis(attributes, x, -1) :]):
        raise BatchError("normalisation over the batch")
    return x


def _layer_normalization_flops(
    attributes: Attributes, inputs: Sequence[Shape], output: Shape
) -> int:
    return 8 * per_image(output)


def _channel_normalization_flops(
    attributes: Attributes, inputs: Sequence[Shape], output: Shape
) -> int:
    return (int(attributes["size"]) + 6) * per_image(output)


def _gather(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    x, indices = inputs
    axis = _axis(attributes, x, 0)
    if x[axis] == 0:
        raise ModelError(f"axis {axis} of {text(x)} has no places")
    if isinstance(x[axis], Batch) or (axis and any(isinstance(size, Batch) for size in indices)):
        raise BatchError(f"places {text(indices)} of axis {axis} of {text(x)}")
    return (*x[:axis], *indices, *x[axis + 1 :])


def _where(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    return broadcast(inputs[0], broadcast(inputs[1], inputs[2]))


def _prelu(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    if broadcast(inputs[0], inputs[1]) != inputs[0]:
        raise ModelError(f"slopes of shape {text(inputs[1])} are more than {text(inputs[0])} has")
    return inputs[0]


def _arg_extreme(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    axis = _axis(attributes, x, 0)
    if x[axis] == 0:
        raise ModelError(f"axis {axis} of {text(x)} has no elements")
    return _reduce({"axes": [axis], "keepdims": attributes.get("keepdims", 1)}, inputs)


def _take(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    sizes = list(inputs[0])
    for axis, size in zip(attributes["axes"], attributes["sizes"], strict=True):
        if isinstance(sizes[axis], Batch):
            raise BatchError(f"places of the batch of {text(inputs[0])}")
        sizes[axis] = size
    return tuple(sizes)


def _patches(attributes: Attributes, inputs: Sequence[Shape]) -> Shape:
    (x,) = inputs
    kernel = attributes["kernel_size"]
    n, height, width, channels = _window(attributes, x, kernel, x[-1])
    return (n, height, width, *kernel, channels)


def _free(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    return 0


def _elementwise(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    return per_image(output)


def _by_input(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    return per_image(inputs[0])


def _affine_flops(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    return 2 * per_image(output)


def _softmax_flops(attributes: Attributes, inputs: Sequence[Shape], output: Shape) -> int:
    return 5 * per_image(output)


# -- Element types -----------------------------------------------------------------------------

DTYPES = (
    "float32",
    "float64",
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "int64",
)
"""The element types that the native engine has, as NumPy names them."""

_QUANTIZED = ("int8", "uint8", "int16", "uint16")


def _one_of(*dtypes: str) -> InferDtype:
    """For inputs all of one of these types, of which the output is as well."""

    def infer_one(attributes: Attributes, inputs: Sequence[str]) -> str:
        for dtype in inputs:
            if dtype not in dtypes or dtype != inputs[0]:
                raise DtypeError(dtype)
        return inputs[0]

    return infer_one


_ANY = _one_of(*DTYPES)
_NUMBERS = _one_of(*(dtype for dtype in DTYPES if dtype != "bool"))


def _bool_of(dtypes: InferDtype) -> InferDtype:
    def infer_bool(attributes: Attributes, inputs: Sequence[str]) -> str:
        dtypes(attributes, inputs)
        return "bool"

    return infer_bool


def _cast_dtype(attributes: Attributes, inputs: Sequence[str]) -> str:
    for dtype in (inputs[0], attributes["dtype"]):
        if dtype not in DTYPES:
            raise DtypeError(dtype)
    return str(attributes["dtype"])


def _quantize_dtype(attributes: Attributes, inputs: Sequence[str]) -> str:
    _float32(attributes, inputs[:2])
    if inputs[2] not in _QUANTIZED:
        raise DtypeError(inputs[2])
    return inputs[2]


def _dequantize_dtype(attributes: Attributes, inputs: Sequence[str]) -> str:
    x, scale, zero_point = inputs
    if x not in (*_QUANTIZED, "int32") or zero_point != x:
        raise DtypeError(x)
    return _float32(attributes, [scale])


def _int64_of_float32(attributes: Attributes, inputs: Sequence[str]) -> str:
    _float32(attributes, inputs)
    return "int64"


def _gather_dtype(attributes: Attributes, inputs: Sequence[str]) -> str:
    if inputs[1] not in ("int32", "int64"):
        raise DtypeError(inputs[1])
    return _ANY(attributes, inputs[:1])


def _where_dtype(attributes: Attributes, inputs: Sequence[str]) -> str:
    if inputs[0] != "bool":
        raise DtypeError(inputs[0])
    return _ANY(attributes, inputs[1:])


BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")
COMPARISONS = ("equal", "less", "less_or_equal", "greater", "greater_or_equal")
LOGICAL = ("logical_and", "logical_or", "logical_xor")

NATIVE_OPERATORS: Mapping[str, NativeOperator] = {
    "conv2d": NativeOperator(_conv2d, _conv2d_flops),
    "conv2d_transpose": NativeOperator(_conv2d_transpose, _conv2d_transpose_flops),
    "max_pool2d": NativeOperator(_pool2d, _pool2d_flops),
    "average_pool2d": NativeOperator(_pool2d, _pool2d_flops),
    "max_pool2d_indices": NativeOperator(_pool2d, _pool2d_flops, _int64_of_float32),
    "global_max_pool2d": NativeOperator(_global_pool2d, _by_input),
    "global_average_pool2d": NativeOperator(_global_pool2d, _by_input),
    "dense": NativeOperator(_dense, _dense_flops),
    "matmul": NativeOperator(_matmul, _matmul_flops, _one_of("float32", "int32")),
    "activation": NativeOperator(_same, _elementwise),
    "softmax": NativeOperator(_softmax, _softmax_flops),
    "log_softmax": NativeOperator(_softmax, _softmax_flops),
    **{op: NativeOperator(_binary, _elementwise, _NUMBERS) for op in BINARY},
    **{op: NativeOperator(_binary, _elementwise, _bool_of(_ANY)) for op in COMPARISONS},
    **{op: NativeOperator(_binary, _elementwise, _one_of("bool")) for op in LOGICAL},
    "prelu": NativeOperator(_prelu, _elementwise),
    "where": NativeOperator(_where, _free, _where_dtype),
    "cast": NativeOperator(_same, _free, _cast_dtype),
    "quantize": NativeOperator(_same, _affine_flops, _quantize_dtype),
    "dequantize": NativeOperator(_same, _affine_flops, _dequantize_dtype),
    "concat": NativeOperator(_concat, _free, _ANY),
    "transpose": NativeOperator(_transpose, _free, _ANY),
    "reshape": NativeOperator(_reshape, _free, _ANY),
    "identity": NativeOperator(_same, _free, _ANY),  # the compiler's own; no program has it
    "pad": NativeOperator(_pad, _free, _ANY),
    "slice": NativeOperator(_slice, _free, _ANY),
    "take": NativeOperator(_take, _free, _ANY),
    "patches": NativeOperator(_patches, _free, _ANY),
    "gather": NativeOperator(_gather, _free, _gather_dtype),
    "resample": NativeOperator(_resample, _resample_flops),
    "layer_normalization": NativeOperator(_layer_normalization, _layer_normalization_flops),
    "local_response_normalization": NativeOperator(_same, _channel_normalization_flops),
    "reduce": NativeOperator(_reduce, _by_input),
    "arg_max": NativeOperator(_arg_extreme, _by_input, _int64_of_float32),
    "arg_min": NativeOperator(_arg_extreme, _by_input, _int64_of_float32),
}
"""Every operator that a node of the IR may have, by name."""
