"""Each function against a plain computation of the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto
from onnx.helper import make_node as node

import pyconv
from pyconv import inspect
from pyconv.errors import InputError
from pyconv.inspect.projection import principal_components
from pyconv.model import Model

Write = Callable[..., Path]


@pytest.fixture(params=["native", "onnxruntime"])
def model(small_classifier: Path, request: pytest.FixtureRequest) -> Model:
    return pyconv.load(small_classifier, engine=request.param)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (40, 6, 8), np.uint8)


def test_activation_maps_are_those_of_the_model(model: Model, images: np.ndarray) -> None:
    found = inspect.activation_maps(model, images[:3])
    expected = model.activations(images[:3])
    assert list(found.layers) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found.layers[name], values)
    assert found.images.shape == (3, 6, 8, 1)
    for layer, panels in (("conv2d", 5), ("dense", 2)):
        assert len(found.plot(layer, 2).axes) == panels
    shown = found.plot("conv2d", 1).axes[3].images[0].get_array()
    np.testing.assert_array_equal(shown, expected["conv2d"][1, ..., 2])
    with pytest.raises(InputError, match="there is no layer 'dens'"):
        found.plot("dens")
    with pytest.raises(InputError, match="image: expected 0 to 2, got 3"):
        found.plot("conv2d", 3)


def test_activation_maps_without_a_layer_map_have_channels_last(
    small_unexplained: Path, images: np.ndarray
) -> None:
    model = pyconv.load(small_unexplained)
    pixels = images.astype(np.float32) / 255
    found = inspect.activation_maps(model, pixels)
    conv = model.activations(pixels)["conv"]
    np.testing.assert_array_equal(found.layers["conv"], conv.transpose(0, 2, 3, 1))
    assert found.layers["scores"].shape == (40, 3)


def test_filters_are_the_weights_in_the_file(model: Model, small_unexplained: Path) -> None:
    found = inspect.filters(model, "conv2d")
    assert (found.kernel.shape, found.groups) == ((3, 3, 1, 4), 1)
    picture = np.zeros((1, 6, 8), np.float32)
    picture[0, 1, 2] = 1
    # A single bright pixel shows the turned filter, for values that relu does not cut off.
    raw = pyconv.load(small_unexplained).activations(picture, ["conv"])["conv"][0]
    assert found.bias is not None
    for channel in range(4):
        np.testing.assert_allclose(
            raw[channel, :2, :3] - found.bias[channel],
            found.kernel[::-1, ::-1, 0, channel][1:, :],
            rtol=1e-5,
            atol=1e-6,
        )
    assert len(found.plot().axes) == 4
    assert len(found.plot(2).axes) == 1
    with pytest.raises(InputError, match="channel: expected 0 to 3, got 4"):
        found.plot(4)
    with pytest.raises(InputError, match="'dense' has no filters; layers that have: conv2d"):
        inspect.filters(model, "dense")


def test_channel_statistics_are_numpys(model: Model, images: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    many = np.concatenate([images] * 8)
    found = inspect.channel_statistics(model, many, progress=lambda *done: told.append(done))
    assert told == [(256, 320), (320, 320)]
    values = model.activations(many)
    assert [statistics.layer for statistics in found] == list(values)
    for statistics in found:
        rows = values[statistics.layer].reshape(-1, values[statistics.layer].shape[-1])
        np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(
            statistics.deviation, rows.astype(np.float64).std(axis=0), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(statistics.lowest, rows.min(axis=0))
        np.testing.assert_array_equal(statistics.highest, rows.max(axis=0))
        np.testing.assert_allclose(statistics.zeros, (rows == 0).mean(axis=0))
        assert not statistics.dead.any()
    assert len(found[0].plot().axes) == 2


def test_channel_statistics_find_dead_channels(write_onnx: Write) -> None:
    kernel = np.ones((3, 1, 1, 1), np.float32)
    kernel[1] = -1
    nodes = [node("Conv", ["x", "k"], ["a"]), node("Relu", ["a"], ["y"])]
    model = pyconv.load(write_onnx(nodes, {"x": ["n", 1, 5, 5]}, {"k": kernel}))
    pixels = np.random.default_rng(0).uniform(0.1, 1, (7, 5, 5)).astype(np.float32)
    before, found = inspect.channel_statistics(model, pixels, ["a", "y"])
    assert before.zeros.tolist() == [0, 0, 0]
    assert not before.dead.any()
    assert found.dead.tolist() == [False, True, False]
    assert found.zeros.tolist() == [0, 1, 0]


def test_exciting_images_are_those_with_the_highest_values(
    model: Model, images: np.ndarray
) -> None:
    found = inspect.exciting_images(model, "conv2d", 3, images, count=5)
    maps = model.activations(images)["conv2d"][..., 3]
    best = sorted(range(40), key=lambda i: -maps[i].max())[:5]
    assert found.indices.tolist() == best
    for k, index in enumerate(best):
        row, column = np.argwhere(maps[index] == maps[index].max())[0]
        assert found.values[k] == maps[index, row, column]
        assert found.places[k].tolist() == [row, column]
        assert found.boxes[k] == (row, column, row + 3, column + 3)
        patch = images[index, row : row + 3, column : column + 3]
        np.testing.assert_array_equal(found.patches[k][..., 0], patch)
    assert len(found.plot().axes) == 5
    unit = inspect.exciting_images(model, "dense", 1, images, count=100)
    assert len(unit.indices) == 40
    assert unit.places.shape == (40, 0)
    assert unit.boxes[0] == (0, 0, 6, 8)
    with pytest.raises(InputError, match="layer 'conv2d' has 4 channels, 0 to 3; got 4"):
        inspect.exciting_images(model, "conv2d", 4, images)
    with pytest.raises(InputError, match="count: expected at least 1"):
        inspect.exciting_images(model, "conv2d", 0, images, count=0)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (2, 3), (6, 1)])
def test_occlusion_map_equals_brute_force(
    model: Model, images: np.ndarray, size: int, stride: int
) -> None:
    image = images[7]
    found = inspect.occlusion_map(model, image, 2, size=size, stride=stride, fill=9)
    whole = model.predict(image[np.newaxis])[0, 2]
    rows = [*range(0, 6 - size + 1, stride)]
    columns = [*range(0, 8 - size + 1, stride)]
    rows += [6 - size] if rows[-1] != 6 - size else []
    columns += [8 - size] if columns[-1] != 8 - size else []
    drops = np.zeros((len(rows), len(columns)))
    falls: dict[tuple[int, int], list[float]] = {}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            hidden = image.copy()
            hidden[row : row + size, column : column + size] = 9
            drops[i, j] = whole - model.predict(hidden[np.newaxis])[0, 2]
            for y in range(row, row + size):
                for x in range(column, column + size):
                    falls.setdefault((y, x), []).append(drops[i, j])
    assert (found.index, found.label, found.probability) == (2, "flat", pytest.approx(whole))
    np.testing.assert_allclose(found.drops, drops, atol=1e-6)
    heat = np.full((6, 8), np.nan)
    for place, values in falls.items():
        heat[place] = np.mean(values)
    np.testing.assert_allclose(found.heat, heat, atol=1e-6)
    assert len(found.plot().axes) == 3


def test_occlusion_map_hides_with_the_darkest_value_and_the_likeliest_class(
    model: Model, images: np.ndarray
) -> None:
    image = images[0]
    found = inspect.occlusion_map(model, image)
    assert found.index == model.predict(image[np.newaxis])[0].argmax()
    expected = inspect.occlusion_map(model, image, found.index, fill=float(image.min()))
    np.testing.assert_array_equal(found.drops, expected.drops)


def test_occlusion_map_refuses_what_makes_no_sense(model: Model, images: np.ndarray) -> None:
    for settings, message in (
        ({"size": 7}, "size: expected 1 to 6 pixels, got 7"),
        ({"stride": 0}, "stride: expected 1 to 8 pixels, got 0"),
        ({"index": 3}, "index: expected a class from 0 to 2, got 3"),
        ({"fill": 256}, "fill: expected 0 to 255"),
    ):
        with pytest.raises(InputError, match=message):
            inspect.occlusion_map(model, images[0], **{"size": 2, **settings})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected shape"):
        inspect.occlusion_map(model, images[0, :5])


def test_grad_cam_of_a_dense_end_is_its_weights(
    model: Model, small_classifier: Path, images: np.ndarray
) -> None:
    """The score is linear in the maps here, so that its gradient is the dense layer's column."""
    found = inspect.grad_cam(model, images[3], 1)
    assert (found.layer, found.index, found.label) == ("conv2d", 1, "right")
    maps = model.activations(images[3:4])["conv2d"][0].astype(np.float64)
    np.testing.assert_allclose(found.weights, found.gradient.mean(axis=(0, 1)), rtol=1e-12)
    lowest = []
    for index in range(3):
        of_class = inspect.grad_cam(model, images[3], index)
        weighted = (maps * of_class.weights).sum(axis=-1)
        lowest.append(weighted.min())
        np.testing.assert_allclose(of_class.map, np.maximum(weighted, 0), rtol=1e-4, atol=1e-5)
    assert min(lowest) < -0.01  # so that it shows whether these are cut off
    scores = model.run(model.preprocess(images[3:4]), ["dense"])["dense"][0]
    assert found.score == pytest.approx(scores[1], rel=1e-4)
    assert float((found.gradient * maps).sum()) == pytest.approx(scores[1], rel=1e-4)
    assert found.heat.shape == (6, 8)
    assert found.heat.max() <= found.map.max() + 1e-6
    assert len(found.plot().axes) == 2
    with pytest.raises(InputError, match="'dense' puts out no maps"):
        inspect.grad_cam(model, images[3], layer="dense")
    with pytest.raises(InputError, match="expected a class from 0 to 2, got 5"):
        inspect.grad_cam(model, images[3], 5)


_HEADS = {
    "a sum": [node("Conv", ["c", "k"], ["d"], pads=[1] * 4), node("Add", ["d", "c"], ["maps"])],
    "branches": [
        node("Conv", ["c", "k"], ["d"], pads=[1] * 4),
        node("Concat", ["d", "c"], ["e"], axis=1),
        node("Slice", ["e", "from", "to", "axes"], ["f"]),
        node("Conv", ["f", "k"], ["maps"], pads=[1] * 4),
    ],
    "a gate": [
        node("GlobalAveragePool", ["c"], ["d"]),
        node("Sigmoid", ["d"], ["e"]),
        node("Mul", ["c", "e"], ["maps"]),
    ],
}


@pytest.mark.parametrize("head", _HEADS.values(), ids=_HEADS)
def test_grad_cam_takes_the_last_maps_before_they_are_pooled(
    write_onnx: Write, head: list[NodeProto]
) -> None:
    random = np.random.default_rng(0)
    weights = {
        "first": random.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "k": random.normal(size=(4, 4, 3, 3)).astype(np.float32),
        "single": random.normal(size=(3, 4, 1, 1)).astype(np.float32),
        "from": np.array([0]),
        "to": np.array([4]),
        "axes": np.array([1]),
    }
    nodes = [
        node("Conv", ["x", "first"], ["c"]),
        *head,
        # A convolution of single pixels has no places to tell apart, and one aside says nothing.
        node("GlobalAveragePool", ["maps"], ["pooled"]),
        node("Conv", ["pooled", "single"], ["scores"]),
        node("Flatten", ["scores"], ["y"]),
        node("Conv", ["maps", "single"], ["aside"]),
    ]
    used = {name: w for name, w in weights.items() if any(name in n.input for n in nodes)}
    model = pyconv.load(write_onnx(nodes, {"x": ["n", 1, 7, 8]}, used, ["y", "aside"]))
    image = random.uniform(0, 1, (7, 8)).astype(np.float32)
    assert inspect.grad_cam(model, image).layer == "maps"


def test_dataset_map_by_principal_components(model: Model, images: np.ndarray) -> None:
    labels = np.arange(40) % 3
    found = inspect.dataset_map(model, images, labels)
    assert (found.layer, found.method) == ("flatten", "pca")
    table = model.activations(images, ["flatten"])["flatten"].astype(np.float64)
    # The eigenvalues of the covariance are the variances along the components.
    spread = np.linalg.eigvalsh(np.cov(table.T, bias=True))[::-1]
    np.testing.assert_allclose(found.points.var(axis=0), spread[:2], rtol=1e-6)
    assert found.explained == pytest.approx(spread[:2] / spread.sum())
    assert abs(np.corrcoef(found.points.T)[0, 1]) < 1e-6
    panel = found.plot().axes[0]
    assert sum(len(points.get_offsets()) for points in panel.collections) == 40
    assert [text.get_text() for text in panel.figure.legends[0].get_texts()] == [
        "left",
        "right",
        "flat",
    ]


def test_dataset_map_by_t_sne_keeps_clusters_together(write_onnx: Write) -> None:
    limits = pytest.importorskip("threadpoolctl").threadpool_limits  # which scikit-learn needs
    path = write_onnx(
        [
            node("Relu", ["x"], ["a"]),
            node("Flatten", ["a"], ["b"]),
            node("MatMul", ["b", "m"], ["y"]),
        ],
        {"x": ["n", 1, 5, 5]},
        {"m": np.ones((25, 2), np.float32)},
    )
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 15)
    pixels = random.uniform(0, 0.2, (30, 5, 5)).astype(np.float32)
    pixels[labels == 1] += 3
    with limits(1):  # threads that wait for each other take minutes where others have the cores
        found = inspect.dataset_map(pyconv.load(path), pixels, labels, method="t-sne", layer="b")
    assert found.explained is None
    centres = [found.points[labels == label].mean(axis=0) for label in (0, 1)]
    for point, label in zip(found.points, labels, strict=True):
        own, other = (np.linalg.norm(point - centres[k]) for k in (label, 1 - label))
        assert own < other
    assert len(found.plot().axes) == 1


def test_dataset_map_refuses_what_makes_no_sense(model: Model, images: np.ndarray) -> None:
    with pytest.raises(InputError, match="at least 3"):
        inspect.dataset_map(model, images[:2])
    with pytest.raises(InputError, match="labels: expected 40 integers, got float64"):
        inspect.dataset_map(model, images, np.zeros(40))
    with pytest.raises(InputError, match="expected one of pca, t-sne"):
        inspect.dataset_map(model, images, method="umap")  # type: ignore[arg-type]


def test_principal_components_of_equal_rows_are_zero() -> None:
    points, shares = principal_components(np.ones((4, 1)), 2)
    assert not points.any()
    assert not shares.any()


def test_activations_over_epochs_are_those_of_each_file(write_onnx: Write, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "epochs"
    folder.mkdir(parents=True)
    kernels = np.random.default_rng(0).normal(size=(3, 2, 1, 3, 3)).astype(np.float32)
    for epoch, kernel in enumerate(kernels, start=1):
        path = write_onnx([node("Conv", ["x", "k"], ["y"])], {"x": ["n", 1, 6, 6]}, {"k": kernel})
        path.rename(folder / f"{epoch:03}.onnx")
    image = np.random.default_rng(1).uniform(0, 1, (6, 6)).astype(np.float32)
    found = inspect.activations_over_epochs(tmp_path / "run", image, "y", [1, 0])
    assert found.epochs == ["001", "002", "003"]
    expected = np.stack(
        [
            pyconv.load(folder / f"{name}.onnx").activations(image[None])["y"][0].transpose(1, 2, 0)
            for name in found.epochs
        ]
    )[..., [1, 0]]
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    steps = np.sqrt(np.mean((expected[1:] - expected[:-1]) ** 2, axis=(1, 2)))
    np.testing.assert_allclose(found.changes, steps, rtol=1e-4)
    assert len(found.plot().axes) == 6
    with pytest.raises(InputError, match="there are no ONNX files"):
        inspect.activations_over_epochs(tmp_path / "run" / "..", image, "y")
    with pytest.raises(InputError, match="has 2 channels, 0 to 1; got 2"):
        inspect.activations_over_epochs(folder, image, "y", [2])


def test_networks_of_single_pictures_are_looked_at_one_by_one(
    write_onnx: Write, images: np.ndarray
) -> None:
    """Most exporters fix the batch at 1, unless they are told otherwise."""
    random = np.random.default_rng(0)
    weights = {
        "k": random.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "w": random.normal(size=(4, 3)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "k"], ["c"]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "w"], ["y"]),
    ]
    single, free = (
        pyconv.load(write_onnx(nodes, {"x": [batch, 1, 6, 8]}, weights, ["y"])).taking_pixels()
        for batch in (1, "n")
    )
    for of in (
        lambda model: inspect.occlusion_map(model, images[0], size=2).drops,
        lambda model: inspect.channel_statistics(model, images)[0].mean,
        lambda model: inspect.exciting_images(model, "c", 1, images).values,
        lambda model: inspect.dataset_map(model, images).points,
        lambda model: inspect.grad_cam(model, images[0]).map,
    ):
        np.testing.assert_allclose(of(single), of(free), atol=1e-5)


def test_networks_that_take_no_pictures_are_refused(write_onnx: Write) -> None:
    model = pyconv.load(write_onnx([node("Relu", ["x"], ["y"])], {"x": ["n", 5]}))
    with pytest.raises(InputError, match="takes no pictures"):
        inspect.activation_maps(model, np.zeros((1, 5), np.float32))
