"""The gradient of a score with respect to a tensor, by the native operators.

The imported graph is run node by node with the native operators, which gives every tensor in
between. From these the chain rule goes back (reverse-mode differentiation: Griewank and Walther,
2008), in double precision but for convolutions, whose gradient is the engine's own transposed
convolution. Where a maximum is taken several times in a window the first one gets the gradient, and
relu has the slope 0 at 0, as in TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyconv import _core
from pyconv.engines.base import Array
from pyconv.errors import InputError
from pyconv.graph.batch import Batch
from pyconv.graph.importer import Network
from pyconv.graph.ir import Graph, Node

Floats = NDArray[np.float64]


class Gradient(NamedTuple):
    """What `gradient` finds.

    Attributes:
        score: the scores.
        values: the tensor that was asked for.
        gradient: of the weighted sum of the scores with respect to it, of its shape.
    """

    score: Array
    values: Array
    gradient: Floats


def gradient(
    network: Network, inputs: Mapping[str, Array], score: str, wanted: Floats, tensor: str
) -> Gradient:
    """The gradient of a weighted sum of scores with respect to a tensor.

    Args:
        network: as imported.
        inputs: by name.
        score: the value that holds the scores.
        wanted: the weight of each, of the scores' shape.
        tensor: a computed tensor that the scores depend on.

    Raises:
        InputError: the scores do not depend on the tensor, or an operator on the way has no
            derivative here.
    """
    graph = network.graph
    needed = ancestors(graph, score)
    behind = _descendants(graph, tensor, needed)
    if score not in behind:
        raise InputError(f"the output does not depend on the tensor {tensor!r}")
    values = _forward(graph, inputs, needed)
    gradients: dict[str, Floats] = {score: wanted.astype(np.float64)}
    for node in reversed(graph.nodes):
        if node.output not in behind or node.output not in gradients or node.output == tensor:
            continue
        operands = [values[name] for name in node.inputs]
        back = _BACKWARD.get(node.op)
        if back is None:
            raise InputError(
                f"{node.tensors[-1]!r}: there is no derivative of {node.op} here; choose a layer "
                "after it"
            )
        parts = back(node, operands, values[node.output], gradients[node.output])
        for name, part in zip(node.inputs, parts, strict=True):
            if name in behind and part is not None:
                gradients[name] = gradients[name] + part if name in gradients else part
    found = gradients.get(tensor, np.zeros(values[tensor].shape))
    return Gradient(values[score], values[tensor], found)


def before_softmax(graph: Graph, output: str) -> str:
    """The scores that a final softmax or sigmoid turns into probabilities, or the output itself."""
    producers = graph.producers()
    while output in producers and producers[output].op == "identity":
        (output,) = producers[output].inputs
    node = producers.get(output)
    if node is not None and (
        node.op in ("softmax", "log_softmax") or node.attributes.get("activation") == "sigmoid"
    ):
        return node.inputs[0]
    return output


def ancestors(graph: Graph, value: str) -> set[str]:
    """The values that a value is computed from, and itself."""
    producers, found, waiting = graph.producers(), set[str](), [value]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += producers[name].inputs if name in producers else ()
    return found


def _descendants(graph: Graph, value: str, among: set[str]) -> set[str]:
    found = {value}
    for node in graph.nodes:
        if node.output in among and any(name in found for name in node.inputs):
            found.add(node.output)
    return found


def _forward(graph: Graph, inputs: Mapping[str, Array], needed: set[str]) -> dict[str, Array]:
    values: dict[str, Array] = {**graph.constants, **inputs}
    batch = len(next(iter(inputs.values())))
    for node in graph.nodes:
        if node.output not in needed:
            continue
        operands = [values[name] for name in node.inputs]
        if node.op == "identity":
            (values[node.output],) = operands
            continue
        attributes = {name: _at(value, batch) for name, value in node.attributes.items()}
        values[node.output] = _core.run_operator(node.op, operands, attributes)
    return values


def _at(value: Any, batch: int) -> Any:
    if isinstance(value, list | tuple):
        return [item.factor * batch if isinstance(item, Batch) else item for item in value]
    return value


# -- The chain rule: what of the output's gradient falls to each operand ----------------------

Backward = Callable[[Node, Sequence[Array], Array, Floats], Sequence[Floats | None]]


def _summed(g: Floats, shape: tuple[int, ...]) -> Floats:
    """The gradient of an operand that was broadcast to g's shape."""
    extra = g.ndim - len(shape)
    axes = tuple(
        axis for axis in range(g.ndim) if axis < extra or (shape[axis - extra] == 1 < g.shape[axis])
    )
    return g.sum(axis=axes, keepdims=True).reshape(shape) if axes else g.reshape(shape)


def _dense(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [g @ np.asarray(node.attributes["weights"], np.float64).T]


def _conv2d(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    kernel = np.asarray(node.attributes["kernel"], np.float32)
    groups = int(node.attributes.get("groups", 1))
    strides = list(node.attributes.get("strides", [1, 1]))
    dilations = list(node.attributes.get("dilations", [1, 1]))
    pads = list(node.attributes.get("pads", [0, 0, 0, 0]))
    x = operands[0]
    # Each group's (kh, kw, in, out) becomes (kh, kw, out, in), all groups one after another.
    turned = np.concatenate(
        [part.transpose(0, 1, 3, 2) for part in np.split(kernel, groups, axis=3)], axis=3
    )
    # Without pads first, cut afterwards: what strides left over at the end sees no window.
    spread = _core.run_operator(
        "conv2d_transpose",
        [np.ascontiguousarray(g, np.float32)],
        {
            "kernel": np.ascontiguousarray(turned),
            "strides": strides,
            "dilations": dilations,
            "groups": groups,
        },
    )
    height, width = x.shape[1:3]
    whole = np.zeros((len(x), height + pads[0] + pads[2], width + pads[1] + pads[3], x.shape[3]))
    rows, columns = min(spread.shape[1], whole.shape[1]), min(spread.shape[2], whole.shape[2])
    whole[:, :rows, :columns] = spread[:, :rows, :columns]
    return [whole[:, pads[0] : pads[0] + height, pads[1] : pads[1] + width]]


def _max_pool2d(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [_pool(node, operands[0], g, largest=True)]


def _average_pool2d(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [_pool(node, operands[0], g, largest=False)]


def _pool(node: Node, x: Array, g: Floats, largest: bool) -> Floats:
    """Hand each window's gradient to its first maximum, or in equal parts to all of it."""
    kernel = node.attributes["kernel_size"]
    strides = node.attributes.get("strides", [1, 1])
    dilations = node.attributes.get("dilations", [1, 1])
    pads = node.attributes.get("pads", [0, 0, 0, 0])
    outputs = g.shape[1:3]
    places = [
        (np.arange(outputs[i]) * strides[i] - pads[i])[:, np.newaxis]
        + np.arange(kernel[i]) * dilations[i]
        for i in range(2)
    ]
    inside = [(p >= 0) & (p < size) for p, size in zip(places, x.shape[1:3], strict=True)]
    # (rows, columns, taps down, taps across)
    valid = inside[0][:, np.newaxis, :, np.newaxis] & inside[1][np.newaxis, :, np.newaxis, :]
    down = np.broadcast_to(places[0][:, np.newaxis, :, np.newaxis], valid.shape)
    across = np.broadcast_to(places[1][np.newaxis, :, np.newaxis, :], valid.shape)
    down, across = np.where(valid, down, 0), np.where(valid, across, 0)
    result = np.zeros(x.shape)
    if largest:
        windows = np.where(valid[..., np.newaxis], x[:, down, across], -np.inf)
        flat = windows.reshape(*windows.shape[:3], -1, x.shape[3])  # (n, rows, columns, taps, c)
        first = flat.argmax(axis=3)
        n, i, j, c = np.indices(first.shape)
        rows = down.reshape(*outputs, -1)[i, j, first]
        columns = across.reshape(*outputs, -1)[i, j, first]
        np.add.at(result, (n, rows, columns, c), g)
        return result
    if node.attributes.get("count_include_pad", 0):
        padded = [
            p < size + pads[2 + i]
            for i, (p, size) in enumerate(zip(places, x.shape[1:3], strict=True))
        ]
        counted = padded[0][:, np.newaxis, :, np.newaxis] & padded[1][np.newaxis, :, np.newaxis, :]
    else:
        counted = valid
    shares = valid / np.maximum(counted.sum(axis=(2, 3), keepdims=True), 1)
    parts = g[:, :, :, np.newaxis, np.newaxis, :] * shares[..., np.newaxis]
    covered: Any = (slice(None), down, across)
    np.add.at(result, covered, parts)
    return result


def _global_max_pool2d(
    node: Node, operands: Sequence[Array], y: Array, g: Floats
) -> Sequence[Floats]:
    x = operands[0]
    flat = x.reshape(len(x), -1, x.shape[3])
    spread = np.zeros(flat.shape)
    np.put_along_axis(spread, flat.argmax(axis=1)[:, np.newaxis], g.reshape(len(x), 1, -1), axis=1)
    return [spread.reshape(x.shape)]


def _global_average_pool2d(
    node: Node, operands: Sequence[Array], y: Array, g: Floats
) -> Sequence[Floats]:
    x = operands[0]
    return [np.broadcast_to(g / (x.shape[1] * x.shape[2]), x.shape)]


def _reduce(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    x, function = operands[0], node.attributes["function"]
    axes = tuple(axis % x.ndim for axis in node.attributes["axes"])
    if function not in ("mean", "sum"):
        raise InputError(f"{node.tensors[-1]!r}: there is no derivative of the {function} here")
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    part = 1.0 / np.prod([x.shape[axis] for axis in axes]) if function == "mean" else 1.0
    return [np.broadcast_to(g.reshape(kept) * part, x.shape)]


def _softmax(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [y * (g - (g * y).sum(axis=node.attributes.get("axis", -1), keepdims=True))]


def _log_softmax(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [g - np.exp(y) * g.sum(axis=node.attributes.get("axis", -1), keepdims=True)]


def _reshape(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [g.reshape(operands[0].shape)]


def _transpose(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [g.transpose(np.argsort(node.attributes["permutation"]))]


def _concat(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    axis = node.attributes.get("axis", 0)
    ends = np.cumsum([x.shape[axis] for x in operands])[:-1]
    return np.split(g, ends, axis=axis)


def _pad(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    x = operands[0]
    if node.attributes.get("mode", "constant") != "constant":
        raise InputError(f"{node.tensors[-1]!r}: there is no derivative of padding by copies here")
    begins = node.attributes["pads"][: x.ndim]
    inner = tuple(slice(b, b + size) for b, size in zip(begins, x.shape, strict=True))
    return [g[inner]]


def _slice(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    whole = np.zeros(operands[0].shape)
    settings = node.attributes
    places = [
        start + step * np.arange(size)
        for start, step, size in zip(settings["starts"], settings["steps"], g.shape, strict=True)
    ]
    whole[np.ix_(*places)] = g
    return [whole]


def _identity(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [g]


def _add(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    return [_summed(g, x.shape) for x in operands]


def _subtract(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    a, b = operands
    return [_summed(g, a.shape), _summed(-g, b.shape)]


def _multiply(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    a, b = operands
    return [_summed(g * b, a.shape), _summed(g * a, b.shape)]


def _divide(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    a, b = operands
    return [_summed(g / b, a.shape), _summed(-g * y / b, b.shape)]


def _maximum(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    a, b = operands
    return [_summed(g * (a > b), a.shape), _summed(g * (b > a), b.shape)]


def _minimum(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    a, b = operands
    return [_summed(g * (a < b), a.shape), _summed(g * (b < a), b.shape)]


def _matmul(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    a, b = (x.astype(np.float64) for x in operands)
    return [
        _summed(g @ b.swapaxes(-1, -2), a.shape),
        _summed(a.swapaxes(-1, -2) @ g, b.shape),
    ]


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _gelu_slope(x: Floats) -> Floats:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    density: Floats = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    slope: Floats = 0.5 * (1 + erf(x / math.sqrt(2))) + x * density
    return slope


def _gelu_tanh_slope(x: Floats) -> Floats:
    factor = math.sqrt(2 / math.pi)
    t = np.tanh(factor * (x + 0.044715 * x**3))
    slope: Floats = 0.5 * (1 + t + x * (1 - t**2) * factor * (1 + 3 * 0.044715 * x**2))
    return slope


def _mish_slope(x: Floats) -> Floats:
    t = np.tanh(np.logaddexp(0, x))
    slope: Floats = t + x * (1 - t**2) * _sigmoid(x)
    return slope


Slope = Callable[[Floats, Floats, float, float], Floats]

_SLOPES: Mapping[str, Slope] = {
    "relu": lambda x, y, a, b: (x > 0).astype(np.float64),
    "clip": lambda x, y, a, b: ((x > a) & (x < b)).astype(np.float64),
    "leaky_relu": lambda x, y, a, b: np.where(x > 0, 1.0, a),
    "elu": lambda x, y, a, b: np.where(x > 0, 1.0, y + a),
    "selu": lambda x, y, a, b: np.where(x > 0, b, y + a * b),
    "sigmoid": lambda x, y, a, b: y * (1 - y),
    "tanh": lambda x, y, a, b: 1 - y**2,
    "softplus": lambda x, y, a, b: _sigmoid(x),
    "softsign": lambda x, y, a, b: 1 / (1 + np.abs(x)) ** 2,
    "swish": lambda x, y, a, b: _sigmoid(a * x) * (1 + a * x * (1 - _sigmoid(a * x))),
    "hard_sigmoid": lambda x, y, a, b: np.where((y > 0) & (y < 1), a, 0.0),
    "hard_swish": lambda x, y, a, b: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, x / 3 + 0.5)),
    "gelu": lambda x, y, a, b: _gelu_slope(x),
    "gelu_tanh": lambda x, y, a, b: _gelu_tanh_slope(x),
    "mish": lambda x, y, a, b: _mish_slope(x),
    "exp": lambda x, y, a, b: y,
    "log": lambda x, y, a, b: 1 / x,
    "sqrt": lambda x, y, a, b: 0.5 / y,
    "abs": lambda x, y, a, b: np.sign(x),
    "negative": lambda x, y, a, b: -np.ones_like(x),
    "reciprocal": lambda x, y, a, b: -(y**2),
    "erf": lambda x, y, a, b: 2 / np.sqrt(np.pi) * np.exp(-(x**2)),
}
"""The derivative at x, from x, f(x) and the activation's alpha and beta."""


def _activation(node: Node, operands: Sequence[Array], y: Array, g: Floats) -> Sequence[Floats]:
    kind = node.attributes["activation"]
    slope = _SLOPES.get(kind)
    if slope is None:
        raise InputError(f"{node.tensors[-1]!r}: there is no derivative of {kind} here")
    x, result = operands[0].astype(np.float64), y.astype(np.float64)
    alpha, beta = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    return [g * slope(x, result, alpha, beta)]


_BACKWARD: Mapping[str, Backward] = {
    "activation": _activation,
    "add": _add,
    "average_pool2d": _average_pool2d,
    "concat": _concat,
    "conv2d": _conv2d,
    "dense": _dense,
    "divide": _divide,
    "global_average_pool2d": _global_average_pool2d,
    "global_max_pool2d": _global_max_pool2d,
    "identity": _identity,
    "log_softmax": _log_softmax,
    "matmul": _matmul,
    "max_pool2d": _max_pool2d,
    "maximum": _maximum,
    "minimum": _minimum,
    "multiply": _multiply,
    "pad": _pad,
    "reduce": _reduce,
    "reshape": _reshape,
    "slice": _slice,
    "softmax": _softmax,
    "subtract": _subtract,
    "transpose": _transpose,
}
