"""The engine's operators as functions on NumPy arrays, in Keras' layout.

Images are channels last: `(n, height, width, channels)`. Every array is float32; any other dtype is
refused with an `InputError` (convert with `.astype(numpy.float32)`), and an array that is not
C-contiguous is copied first. Every function returns a new array.

Where a size is taken in two directions, an integer counts for both and a pair is (height, width).
`pads` is one of

- `"valid"`: none;
- `"same"`: as TensorFlow's SAME: outputs = ceil(size / stride), and what an odd number of pads
  leaves over goes to the bottom and the right;
- an integer: so many on every side;
- a pair: (top and bottom, left and right);
- four integers: (top, left, bottom, right).

An `activation` is the name of one of the functions listed at `activation`, or None.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyconv import _core
from pyconv.errors import InputError

FloatArray: TypeAlias = NDArray[np.float32]
Pair: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
Pads: TypeAlias = Literal["valid", "same"] | SupportsIndex | Sequence[SupportsIndex]
PadMode: TypeAlias = Literal["constant", "reflect", "edge", "wrap"]
Reduction: TypeAlias = Literal["mean", "sum", "max", "min"]

# -- Convolution, pooling, dense -------------------------------------------------------------------


def conv2d(
    x: FloatArray,
    kernel: FloatArray,
    bias: FloatArray | None = None,
    *,
    strides: Pair = 1,
    pads: Pads = "valid",
    dilations: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    exact: bool = False,
) -> FloatArray:
    """Convolve images with filters: ONNX's Conv, Keras' Conv2D and DepthwiseConv2D.

    `y[n, i, j, f] = a(bias[f] + sum over u, v, c of
    x[n, i * stride - top + u * dilation, j * stride - left + v * dilation, g * in / groups + c]
    * kernel[u, v, c, f])`, where x is 0 outside the map, a is the activation and
    g = f // (filters / groups) is the group of the filter.

    Args:
        x: images, (n, height, width, in).
        kernel: filters, (kernel_height, kernel_width, in / groups, filters), as Keras stores them.
        bias: (filters,), added to each filter's output; None is 0.
        strides: steps from window to window, at least 1.
        pads: zeros around the map; see the module.
        dilations: steps from tap to tap within a window, at least 1.
        groups: how many groups the channels and the filters fall into; `groups=in` is a depthwise
            convolution, whose kernel is (kernel_height, kernel_width, 1, in * multiplier).
        activation: the function applied at the end.
        exact: whether to keep to direct products, where Winograd's algorithm would be faster and
            off by up to 1e-5 of the output's scale.

    Returns:
        (n, out_height, out_width, filters), where
        out = (size + pads - ((kernel - 1) * dilation + 1)) // stride + 1.

    Raises:
        InputError: a dtype is not float32, the shapes do not fit each other, or the window is
            larger than the padded map.

    Examples:
        >>> import numpy as np, pyconv
        >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
        >>> edges = np.array([-1, 1], np.float32).reshape(1, 2, 1, 1)
        >>> pyconv.conv2d(x, edges)[0, :, :, 0]
        array([[1., 1., 1.],
               [1., 1., 1.],
               [1., 1., 1.],
               [1., 1., 1.]], dtype=float32)
        >>> pyconv.conv2d(x, np.ones((3, 3, 1, 8), np.float32), strides=2, pads="same").shape
        (1, 2, 2, 8)
    """
    window = _window("conv2d", x, np.shape(kernel)[:2], strides, pads, dilations)
    attributes = {"kernel": kernel, "bias": bias, "groups": groups, "activation": activation}
    return _core.run_operator("conv2d", [x], window | attributes | {"exact": int(exact)})


def max_pool2d(
    x: FloatArray,
    kernel_size: Pair = 2,
    *,
    strides: Pair | None = None,
    pads: Pads = "valid",
    dilations: Pair = 1,
    ceil_mode: bool = False,
) -> FloatArray:
    """The largest element of each window, channel by channel: ONNX's MaxPool, Keras' MaxPooling2D.

    `y[n, i, j, c] = max over u, v of
    x[n, i * stride - top + u * dilation, j * stride - left + v * dilation, c]`, where padding
    counts as -inf.

    Args:
        x: images, (n, height, width, channels).
        kernel_size: the window.
        strides: steps from window to window, at least 1; None is `kernel_size`.
        pads: padding around the map, less than the window's extent; see the module.
        dilations: steps from tap to tap within a window, at least 1.
        ceil_mode: also take a last window that hangs over the end, if it begins before it.

    Returns:
        (n, out_height, out_width, channels), where
        out = (size + pads - ((kernel - 1) * dilation + 1)) / stride + 1, rounded down, or up with
        `ceil_mode`.

    Raises:
        InputError: x is not float32 of rank 4, or the window is larger than the padded map.

    Examples:
        >>> import numpy as np, pyconv
        >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
        >>> pyconv.max_pool2d(x)[0, :, :, 0]
        array([[ 5.,  7.],
               [13., 15.]], dtype=float32)
    """
    return _core.run_operator(
        "max_pool2d",
        [x],
        _pool("max_pool2d", x, kernel_size, strides, pads, dilations, ceil_mode),
    )


def average_pool2d(
    x: FloatArray,
    kernel_size: Pair = 2,
    *,
    strides: Pair | None = None,
    pads: Pads = "valid",
    dilations: Pair = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> FloatArray:
    """The mean of each window, channel by channel: ONNX's AveragePool, Keras' AveragePooling2D.

    Args:
        x: images, (n, height, width, channels).
        kernel_size: the window.
        strides: steps from window to window, at least 1; None is `kernel_size`.
        pads: padding around the map, less than the window's extent; see the module.
        dilations: steps from tap to tap within a window, at least 1.
        ceil_mode: also take a last window that hangs over the end, if it begins before it.
        count_include_pad: divide by the number of taps within the padded map, padding being 0,
            instead of by the number of taps within the map itself.

    Returns:
        (n, out_height, out_width, channels), sizes as in `max_pool2d`.

    Raises:
        InputError: x is not float32 of rank 4, or the window is larger than the padded map.

    Examples:
        >>> import numpy as np, pyconv
        >>> x = np.ones((1, 3, 3, 1), np.float32)
        >>> pyconv.average_pool2d(x, 3, strides=1, pads="same", count_include_pad=True)[0, 0, 1]
        array([0.6666667], dtype=float32)
    """
    attributes = _pool("average_pool2d", x, kernel_size, strides, pads, dilations, ceil_mode)
    attributes["count_include_pad"] = int(count_include_pad)
    return _core.run_operator("average_pool2d", [x], attributes)


def global_max_pool2d(x: FloatArray) -> FloatArray:
    """The largest element of each channel's map: ONNX's GlobalMaxPool.

    Args:
        x: images, (n, height, width, channels), of at least one pixel.

    Returns:
        (n, 1, 1, channels), as Keras' GlobalMaxPooling2D with `keepdims=True`.

    Raises:
        InputError: x is not float32 of rank 4, or the map is empty.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.global_max_pool2d(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2))
        array([[[[6., 7.]]]], dtype=float32)
    """
    return _core.run_operator("global_max_pool2d", [x], {})


def global_average_pool2d(x: FloatArray) -> FloatArray:
    """The mean of each channel's map: ONNX's GlobalAveragePool.

    Args:
        x: images, (n, height, width, channels), of at least one pixel.

    Returns:
        (n, 1, 1, channels), as Keras' GlobalAveragePooling2D with `keepdims=True`.

    Raises:
        InputError: x is not float32 of rank 4, or the map is empty.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.global_average_pool2d(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2))
        array([[[[3., 4.]]]], dtype=float32)
    """
    return _core.run_operator("global_average_pool2d", [x], {})


def dense(
    x: FloatArray,
    weights: FloatArray,
    bias: FloatArray | None = None,
    *,
    activation: str | None = None,
) -> FloatArray:
    """A fully connected layer, `y = a(x @ weights + bias)`: ONNX's Gemm or MatMul, Keras' Dense.

    Args:
        x: (..., in).
        weights: (in, out).
        bias: (out,); None is 0.
        activation: the function a applied at the end.

    Returns:
        (..., out).

    Raises:
        InputError: a dtype is not float32, or the shapes do not fit each other.

    Examples:
        >>> import numpy as np, pyconv
        >>> x = np.array([[1, 2]], np.float32)
        >>> weights = np.array([[1, 0, -1], [0, 1, -1]], np.float32)
        >>> pyconv.dense(x, weights, activation="relu")
        array([[1., 2., 0.]], dtype=float32)
    """
    attributes = {"weights": weights, "bias": bias, "activation": activation}
    return _core.run_operator("dense", [x], attributes)


def batch_normalization(
    x: FloatArray,
    mean: FloatArray,
    variance: FloatArray,
    *,
    gamma: FloatArray | None = None,
    beta: FloatArray | None = None,
    epsilon: float = 1e-3,
) -> FloatArray:
    """Bring each channel to a mean and a spread, by statistics that are known: ONNX's and Keras'
    BatchNormalization when a network is used (Ioffe and Szegedy 2015).

    `y[..., c] = gamma[c] * (x[..., c] - mean[c]) / sqrt(variance[c] + epsilon) + beta[c]`. In a
    network that `pyconv.load` reads it is folded into the weights of the layer before.

    Args:
        x: (..., channels).
        mean: (channels,).
        variance: (channels,), of no negative number.
        gamma: (channels,); None is 1.
        beta: (channels,); None is 0.
        epsilon: keeps the root from 0; Keras' default, ONNX's is 1e-5.

    Returns:
        The shape of x.

    Raises:
        InputError: a dtype is not float32, or a parameter is no number for each channel of x.

    Examples:
        >>> import numpy as np, pyconv
        >>> x = np.array([[1, 10], [3, 30]], np.float32)
        >>> mean, variance = np.array([2, 20], np.float32), np.array([1, 100], np.float32)
        >>> pyconv.batch_normalization(x, mean, variance, epsilon=0)
        array([[-1., -1.],
               [ 1.,  1.]], dtype=float32)
    """
    channels = np.shape(x)[-1:]
    parameters = {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    for name, value in parameters.items():
        if value is not None and (not channels or np.shape(value) != channels):
            raise InputError(
                f"batch_normalization: {name}: expected shape {channels}, as x is of shape "
                f"{np.shape(x)}, got {np.shape(value)}"
            )
    deviation = activation(add(variance, np.full(channels, epsilon, np.float32)), "sqrt")
    y = divide(subtract(x, mean), deviation)
    if gamma is not None:
        y = multiply(y, gamma)
    return y if beta is None else add(y, beta)


# -- Element by element ----------------------------------------------------------------------------


def activation(
    x: FloatArray, name: str, *, alpha: float | None = None, beta: float | None = None
) -> FloatArray:
    """Apply a function to every element.

    | name | function | alpha | beta |
    |---|---|---|---|
    | `linear` | x | | |
    | `relu`, `relu6` | max(x, 0), min(max(x, 0), 6) | 0 | inf, 6 |
    | `clip` | min(max(x, alpha), beta) | -inf | inf |
    | `leaky_relu` | x, or alpha x below 0 | 0.01 | |
    | `elu` | x, or alpha (e^x - 1) below 0 | 1 | |
    | `selu` | beta times elu(x) | 1.67326319 | 1.05070102 |
    | `sigmoid` | 1 / (1 + e^-x) | | |
    | `hard_sigmoid` | alpha x + beta, within 0 and 1 | 0.2 | 0.5 |
    | `swish`, `hard_swish` | x sigmoid(alpha x), x (x / 6 + 0.5 within 0 and 1) | 1, none | |
    | `softplus`, `softsign` | log(1 + e^x), x / (1 + abs(x)) | | |
    | `gelu`, `gelu_tanh` | x (1 + erf(x / sqrt(2))) / 2, and by its formula with tanh | | |
    | `mish` | x tanh(softplus(x)) | | |
    | `tanh`, `exp`, `log`, `sqrt`, `abs`, `negative`, `reciprocal`, `erf` | as named | | |

    Args:
        x: any shape.
        name: the function.
        alpha: its first parameter; None is the default, ONNX's.
        beta: its second parameter; None is the default, ONNX's.

    Returns:
        The shape of x.

    Raises:
        InputError: x is not float32, or there is no function of that name.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.activation(np.array([-1, 0, 1], np.float32), "leaky_relu", alpha=0.5)
        array([-0.5,  0. ,  1. ], dtype=float32)
    """
    attributes = {
        "activation": name,
        "alpha": None if alpha is None else float(alpha),
        "beta": None if beta is None else float(beta),
    }
    return _core.run_operator("activation", [x], attributes)


def relu(x: FloatArray) -> FloatArray:
    """Negative elements become 0: ONNX's Relu.

    Args:
        x: any shape.

    Returns:
        The shape of x.

    Raises:
        InputError: x is not float32.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.relu(np.array([-1, 0, 1], np.float32))
        array([0., 0., 1.], dtype=float32)
    """
    return activation(x, "relu")


def softmax(x: FloatArray, axis: int = -1) -> FloatArray:
    """Probabilities from scores, `e^x / sum of e^x along the axis`: ONNX's Softmax.

    Args:
        x: scores, of at least one axis.
        axis: the axis whose elements are to sum to 1; negative counts from the end.

    Returns:
        The shape of x.

    Raises:
        InputError: x is not float32, has no such axis, or that axis is empty.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.softmax(np.array([[3, 3], [5, 5]], np.float32))
        array([[0.5, 0.5],
               [0.5, 0.5]], dtype=float32)
    """
    return _core.run_operator("softmax", [x], {"axis": axis})


def log_softmax(x: FloatArray, axis: int = -1) -> FloatArray:
    """Logarithms of probabilities, `x - log(sum of e^x along the axis)`: ONNX's LogSoftmax.

    Args:
        x: scores, of at least one axis.
        axis: the axis to sum along; negative counts from the end.

    Returns:
        The shape of x.

    Raises:
        InputError: x is not float32, has no such axis, or that axis is empty.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.log_softmax(np.zeros((1, 2), np.float32)).round(3)
        array([[-0.693, -0.693]], dtype=float32)
    """
    return _core.run_operator("log_softmax", [x], {"axis": axis})


def add(a: FloatArray, b: FloatArray) -> FloatArray:
    """`a + b`, element by element: ONNX's Add.

    Args:
        a: any shape.
        b: a shape that broadcasts with a's as NumPy does it.

    Returns:
        The shape of their broadcast.

    Raises:
        InputError: a dtype is not float32, or the shapes do not broadcast.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.add(np.zeros((2, 1), np.float32), np.array([1, 2], np.float32))
        array([[1., 2.],
               [1., 2.]], dtype=float32)
    """
    return _core.run_operator("add", [a, b], {})


def subtract(a: FloatArray, b: FloatArray) -> FloatArray:
    """`a - b`, element by element: ONNX's Sub. Shapes and errors are those of `add`.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.subtract(np.array([3, 4], np.float32), np.array([1], np.float32))
        array([2., 3.], dtype=float32)
    """
    return _core.run_operator("subtract", [a, b], {})


def multiply(a: FloatArray, b: FloatArray) -> FloatArray:
    """`a * b`, element by element: ONNX's Mul. Shapes and errors are those of `add`.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.multiply(np.array([3, 4], np.float32), np.array([2], np.float32))
        array([6., 8.], dtype=float32)
    """
    return _core.run_operator("multiply", [a, b], {})


def divide(a: FloatArray, b: FloatArray) -> FloatArray:
    """`a / b`, element by element: ONNX's Div; x / 0 is inf or NaN, without a warning.

    Shapes and errors are those of `add`.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.divide(np.array([3, 4], np.float32), np.array([2, 0], np.float32))
        array([1.5, inf], dtype=float32)
    """
    return _core.run_operator("divide", [a, b], {})


def maximum(a: FloatArray, b: FloatArray) -> FloatArray:
    """The greater of a and b, element by element, NaN if either is: ONNX's Max.

    Shapes and errors are those of `add`.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.maximum(np.array([3, 4], np.float32), np.array([4, 2], np.float32))
        array([4., 4.], dtype=float32)
    """
    return _core.run_operator("maximum", [a, b], {})


def minimum(a: FloatArray, b: FloatArray) -> FloatArray:
    """The lesser of a and b, element by element, NaN if either is: ONNX's Min.

    Shapes and errors are those of `add`.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.minimum(np.array([3, 4], np.float32), np.array([4, 2], np.float32))
        array([3., 2.], dtype=float32)
    """
    return _core.run_operator("minimum", [a, b], {})


def power(a: FloatArray, b: FloatArray) -> FloatArray:
    """`a ** b`, element by element, as C's `pow`: ONNX's Pow. Shapes and errors are those of `add`.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.power(np.array([3, 4], np.float32), np.array([2, 0.5], np.float32))
        array([9., 2.], dtype=float32)
    """
    return _core.run_operator("power", [a, b], {})


def reduce(
    x: FloatArray,
    function: Reduction = "mean",
    *,
    axes: SupportsIndex | Sequence[SupportsIndex],
    keepdims: bool = False,
) -> FloatArray:
    """Mean, sum, largest or smallest element along axes: ONNX's ReduceMean, ReduceSum and so on.

    Args:
        x: any shape.
        function: "mean", "sum", "max" or "min".
        axes: the axes to reduce; negative ones count from the end.
        keepdims: keep the reduced axes, with size 1.

    Returns:
        The shape of x without the reduced axes, or with 1 in their places.

    Raises:
        InputError: x is not float32 or has no such axis, or there is no function of that name.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.reduce(np.arange(6, dtype=np.float32).reshape(2, 3), "sum", axes=1)
        array([ 3., 12.], dtype=float32)
    """
    several = _integers(axes)
    if several is None:
        raise InputError(f"reduce: axes: expected an integer or several, got {axes!r}")
    attributes = {"function": function, "axes": several, "keepdims": int(keepdims)}
    return _core.run_operator("reduce", [x], attributes)


# -- Moving elements -------------------------------------------------------------------------------


def concat(arrays: Sequence[FloatArray], axis: int = -1) -> FloatArray:
    """Join arrays along an axis: ONNX's Concat.

    Args:
        arrays: at least one; their shapes are alike but for the axis.
        axis: the axis; negative counts from the end.

    Returns:
        The shape of the first, with the sum of the sizes in that axis.

    Raises:
        InputError: there is no array, a dtype is not float32, or the shapes do not fit each other.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.concat([np.zeros((2, 1), np.float32), np.ones((2, 2), np.float32)])
        array([[0., 1., 1.],
               [0., 1., 1.]], dtype=float32)
    """
    return _core.run_operator("concat", arrays, {"axis": axis})


def flatten(x: FloatArray) -> FloatArray:
    """All axes but the first become one: ONNX's Flatten, Keras' Flatten.

    Args:
        x: (n, ...).

    Returns:
        (n, elements of an image), in C order: channels fastest.

    Raises:
        InputError: x is not float32, or has no axis.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.flatten(np.zeros((5, 4, 3, 2), np.float32)).shape
        (5, 24)
    """
    shape = np.shape(x)
    if not shape:
        raise InputError("flatten: x: expected shape (n, ...), got ()")
    return reshape(x, (shape[0], math.prod(shape[1:])))


def reshape(x: FloatArray, shape: Sequence[SupportsIndex]) -> FloatArray:
    """The same elements, in C order, in another shape: ONNX's Reshape.

    Args:
        x: any shape.
        shape: the new one; one size may be -1, which is then computed.

    Returns:
        A copy in that shape.

    Raises:
        InputError: x is not float32, or the shape has another number of elements.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.reshape(np.zeros((2, 6), np.float32), (3, -1)).shape
        (3, 4)
    """
    return _core.run_operator("reshape", [x], {"shape": list(shape)})


def transpose(x: FloatArray, permutation: Sequence[SupportsIndex]) -> FloatArray:
    """Reorder the axes: ONNX's Transpose.

    Args:
        x: any shape.
        permutation: for each axis of the result the axis of x that goes there.

    Returns:
        `y.shape[i] == x.shape[permutation[i]]`.

    Raises:
        InputError: x is not float32, or the permutation does not name each of its axes once.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.transpose(np.zeros((1, 28, 28, 3), np.float32), (0, 3, 1, 2)).shape
        (1, 3, 28, 28)
    """
    return _core.run_operator("transpose", [x], {"permutation": list(permutation)})


def pad(
    x: FloatArray,
    pads: Sequence[Sequence[SupportsIndex]],
    mode: PadMode = "constant",
    value: float = 0.0,
) -> FloatArray:
    """Put elements around an array, or take some off: ONNX's Pad, NumPy's `pad`.

    Args:
        x: any shape.
        pads: for each axis a pair (begin, end); a negative number crops.
        mode: "constant" (`value`), "edge" (the last element), "reflect" (mirrored at the last
            element, without repeating it) or "wrap" (from the other end).
        value: what "constant" puts there.

    Returns:
        `y.shape[i] == x.shape[i] + sum(pads[i])`.

    Raises:
        InputError: x is not float32, the pads are not a pair for every axis, or crop too much.

    Examples:
        >>> import numpy as np, pyconv
        >>> pyconv.pad(np.array([1, 2, 3], np.float32), [(1, 2)], "reflect")
        array([2., 1., 2., 3., 2., 1.], dtype=float32)
    """
    pairs = [list(pair) for pair in pads]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(f"pad: pads: expected a pair (begin, end) for every axis, got {pads}")
    flat = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    return _core.run_operator("pad", [x], {"pads": flat, "mode": mode, "value": float(value)})


# -- Sizes, strides and pads as people write them --------------------------------------------------


def _integers(value: Any) -> list[int] | None:
    """An integer, or a sequence of them, as a list; None for anything else."""
    try:
        return [operator.index(value)]
    except TypeError:
        pass
    try:
        return [operator.index(item) for item in value]
    except TypeError:
        return None


def _pair(operation: str, name: str, value: Pair) -> list[int]:
    integers = _integers(value) or []
    pair = integers * 2 if len(integers) == 1 else integers
    if len(pair) != 2 or min(pair) < 1:
        raise InputError(
            f"{operation}: {name}: expected an integer of at least 1 or two of them, got {value!r}"
        )
    return pair


def _sides(
    operation: str,
    x: FloatArray,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
) -> list[int]:
    """`pads` as [top, left, bottom, right]."""
    if isinstance(pads, str):
        if pads == "valid":
            return [0, 0, 0, 0]
        if pads == "same":
            before, after = [], []
            for size, taps, stride, dilation in zip(
                np.shape(x)[1:3], kernel_size, strides, dilations, strict=False
            ):
                extent = (taps - 1) * dilation + 1
                total = max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
                before.append(total // 2)
                after.append(total - total // 2)
            return [*before, *after]
    else:
        integers = _integers(pads) or []
        if len(integers) == 1:
            return integers * 4
        if len(integers) == 2:
            return integers * 2
        if len(integers) == 4:
            return integers
    raise InputError(
        f'{operation}: pads: expected "valid", "same", an integer, two integers (vertical, '
        f"horizontal) or four (top, left, bottom, right), got {pads!r}"
    )


def _window(
    operation: str,
    x: FloatArray,
    kernel_size: Sequence[int],
    strides: Pair,
    pads: Pads,
    dilations: Pair,
) -> dict[str, Any]:
    steps = _pair(operation, "strides", strides)
    gaps = _pair(operation, "dilations", dilations)
    sides = _sides(operation, x, kernel_size, steps, pads, gaps)
    return {"strides": steps, "dilations": gaps, "pads": sides}


def _pool(
    operation: str,
    x: FloatArray,
    kernel_size: Pair,
    strides: Pair | None,
    pads: Pads,
    dilations: Pair,
    ceil_mode: bool,
) -> dict[str, Any]:
    size = _pair(operation, "kernel_size", kernel_size)
    window = _window(operation, x, size, size if strides is None else strides, pads, dilations)
    return window | {"kernel_size": size, "ceil_mode": int(ceil_mode)}
