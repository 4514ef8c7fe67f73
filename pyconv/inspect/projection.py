"""A map of a data set: its images as points, near where the network finds them alike.

Each image is what the last hidden layer makes of it. Two dimensions of those are drawn: the two
directions of the largest variance (principal components: Pearson, 1901), or t-SNE (van der Maaten
and Hinton, 2008), which keeps neighbours together and gives distances between clusters no meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pyconv.engines.base import Array
from pyconv.errors import InputError, MissingExtraError
from pyconv.inspect.layers import (
    LayerView,
    Progress,
    checked_images,
    computed,
    computed_in_batches,
    view,
    views,
)
from pyconv.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["pca", "t-sne"]

PERPLEXITY = 30
"""How many neighbours t-SNE heeds, about, where there are at least four times as many images."""


@dataclass(frozen=True, slots=True, eq=False)
class DataMap:
    """A data set's images as points in the plane.

    Attributes:
        layer: the layer in whose values they are alike or not.
        method: how the plane was found.
        points: (n, 2) float64.
        labels: (n,) integers, the images' classes; None where they were not given.
        names: the classes' names.
        explained: the share of the variance along each axis, for `"pca"`; None for `"t-sne"`.
    """

    layer: str
    method: Method
    points: NDArray[np.float64]
    labels: NDArray[np.intp] | None
    names: Sequence[str]
    explained: tuple[float, float] | None

    def plot(self) -> Figure:
        """The points, each class in its colour.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        from pyconv.inspect import drawing

        title = f"{len(self.points):,} images as {self.layer} sees them"
        figure = drawing.new_figure(title, 7.6, 6.2)
        panel = figure.subplots()
        size = float(np.clip(6000 / len(self.points), 3, 30))
        if self.labels is None:
            x, y = self.points.T
            panel.scatter(x, y, s=size, color=drawing.COLOURS[0], linewidths=0)
        else:
            for place, label in enumerate(np.unique(self.labels)):
                name = self.names[label] if label < len(self.names) else str(label)
                x, y = self.points[self.labels == label].T
                panel.scatter(
                    x,
                    y,
                    s=size,
                    color=drawing.COLOURS[place % len(drawing.COLOURS)],
                    label=name,
                    alpha=0.8,
                    linewidths=0,
                )
            legend = figure.legend(loc="outside right center", frameon=False, markerscale=2.5)
            for text in legend.get_texts():
                text.set_color(drawing.INK)
        if self.explained is not None:
            first, second = self.explained
            panel.set_xlabel(f"first component, {first:.0%} of the variance", color=drawing.FAINT)
            panel.set_ylabel(f"second component, {second:.0%}", color=drawing.FAINT)
        else:
            panel.set_xlabel(
                "t-SNE: who is near is alike; distances mean little", color=drawing.FAINT
            )
            panel.set_xticks([])
            panel.set_yticks([])
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=drawing.FAINT, length=0, labelsize=8)
        return figure


def dataset_map(
    model: Model,
    images: Array,
    labels: Array | None = None,
    *,
    layer: str | None = None,
    method: Method = "pca",
    seed: int = 0,
    progress: Progress | None = None,
) -> DataMap:
    """Lay a data set out in the plane.

    Args:
        model: on any engine.
        images: (n, height, width) or (n, height, width, channels) as `Model.predict` takes them, at
            least three.
        labels: (n,) integers, their classes, for the colours.
        layer: whose values count; the last one before the output by default, the last hidden layer.
        method: `"pca"`, or `"t-sne"`, which needs scikit-learn (the extra
            `inspect`).
        seed: of t-SNE.
        progress: told how many images are done.

    Raises:
        InputError: there is no such layer, or the images or labels have another shape or dtype.
        MissingExtraError: scikit-learn is not installed.
    """
    images = checked_images(model, images)
    if len(images) < 3:
        raise InputError(f"images: expected at least 3 to lay out, got {len(images)}")
    if method not in get_args(Method):
        raise InputError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
    classes = None if labels is None else np.asarray(labels)
    if classes is not None and (
        classes.shape != (len(images),) or not np.issubdtype(classes.dtype, np.integer)
    ):
        raise InputError(
            f"labels: expected {len(images)} integers, got {classes.dtype} {classes.shape}"
        )
    embed = _t_sne(seed, len(images)) if method == "t-sne" else None
    chosen = view(model, layer) if layer is not None else _last_hidden(model, images)
    rows = [
        values[chosen.name].reshape(len(values[chosen.name]), -1)
        for _, values in computed_in_batches(model, images, [chosen], progress)
    ]
    table = np.concatenate(rows).astype(np.float64)
    if len(table) != len(images):
        raise InputError(f"layer {chosen.name!r} holds no values of each image")
    components, explained = principal_components(table, 2 if embed is None else 50)
    if embed is not None:  # as van der Maaten and Hinton do: t-SNE of the first components
        points, shares = np.asarray(embed.fit_transform(components), np.float64), None
    else:
        points, shares = components, (float(explained[0]), float(explained[1]))
    where = None if classes is None else classes.astype(np.intp)
    return DataMap(chosen.name, method, points, where, tuple(model.labels), shares)


def principal_components(
    table: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows along the directions of their largest variance.

    Args:
        table: (n, features).
        count: how many directions; those that the table lacks are all 0.

    Returns:
        (n, count) coordinates, and the share of the whole variance along each. A direction's sign
        is such that its largest component is positive.
    """
    centred = table - table.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:count]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    points = np.zeros((len(table), count))
    points[:, : len(directions)] = centred @ (directions * signs[:, np.newaxis]).T
    shares = np.zeros(count)
    shares[: len(directions)] = sizes[:count] ** 2 / ((sizes**2).sum() or 1.0)
    return points, shares


def _t_sne(seed: int, images: int) -> Any:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise MissingExtraError("scikit-learn", "inspect", "a map by t-SNE") from None
    perplexity = min(PERPLEXITY, max(1, (images - 1) // 4))
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed)


def _last_hidden(model: Model, images: Array) -> LayerView:
    """The last layer before those that make the output: what the last weights are applied to."""
    found = views(model)
    values = computed(model, images[:1], found)
    contract = model.metadata.output
    output = contract.tensor if contract else model.outputs[0].name
    classes = next((values[v.name].shape[-1] for v in found if v.tensor == output), None)
    hidden = [
        v
        for v in found
        if values[v.name].ndim >= 2
        and len(values[v.name]) == 1
        and values[v.name].dtype == np.float32
        and values[v.name].shape[-1] != classes
    ]
    if not hidden:
        raise InputError(f"{model.path}: no layer is hidden behind the output; name one")
    return hidden[-1]
