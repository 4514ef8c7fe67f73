"""Programs: their operators one by one, whatever the batch, the threads and the calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyconv import _core
from pyconv.errors import InputError

FloatArray = NDArray[np.float32]
Build = Callable[..., _core.Program]

_RANDOM = np.random.default_rng(0)
KERNEL_1 = _RANDOM.uniform(-1, 1, (3, 3, 1, 17)).astype(np.float32)
KERNEL_2 = _RANDOM.uniform(-0.2, 0.2, (3, 3, 17, 33)).astype(np.float32)
WEIGHTS = _RANDOM.uniform(-0.1, 0.1, (2 * 2 * 33, 10)).astype(np.float32)
POOL = {"pool_size": [2, 2], "pool_strides": [2, 2]}
LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("conv2d", {"kernel": KERNEL_1, "activation": "relu"} | POOL),
    ("conv2d", {"kernel": KERNEL_2, "activation": "relu"} | POOL),
    ("reshape", {"shape": [-1, 2 * 2 * 33]}),
    ("dense", {"weights": WEIGHTS, "activation": "tanh"}),
    ("softmax", {}),
]
SIZE = (14, 14, 1)


def _build(threads: int = 1, outputs: tuple[int, ...] = (-1,)) -> _core.Program:
    """The network; an output is a place in the list of the input and the layers' values."""
    builder = _core.ProgramBuilder()
    values = [builder.input("x", [-1, *SIZE])]
    for name, attributes in LAYERS:
        values.append(builder.add(name, [values[-1]], attributes))
    return builder.build([values[place] for place in outputs], threads=threads)


def _one_by_one(images: FloatArray) -> list[FloatArray]:
    values = [images]
    for name, attributes in LAYERS:
        fixed = dict(attributes)
        if name == "reshape":
            fixed["shape"] = [len(images), *attributes["shape"][1:]]
        values.append(_core.run_operator(name, [values[-1]], fixed))
    return values


def _images(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).random((count, *SIZE), np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [0, 1, 2, 3, 7, 8, 31, 32, 33, 100])
def test_program_equals_its_operators(batch: int, threads: int) -> None:
    images = _images(batch)
    (result,) = _build(threads).run([images])
    # To the bit: which images go together, and on which thread, changes no sum.
    np.testing.assert_array_equal(result, _one_by_one(images)[-1])


def test_result_does_not_depend_on_how_the_batch_is_cut() -> None:
    program, images = _build(2), _images(70)
    (whole,) = program.run([images])
    for piece in (1, 13, 64):
        parts = [program.run([images[i : i + piece]])[0] for i in range(0, 70, piece)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "outputs",
    [(0,), (1,), (2, 1), (3,), (2, 3), (5, 0, 4, 3, 2, 1), (5, 5), (3, 3, 2), (0, 0)],
    ids=str,
)
def test_any_value_can_be_an_output(outputs: tuple[int, ...], threads: int) -> None:
    images = _images(37)
    values = _one_by_one(images)
    results = _build(threads, outputs).run([images])
    for place, result in zip(outputs, results, strict=True):
        np.testing.assert_array_equal(result, values[place])
    # Each is an array of its own.
    for result in results:
        result[...] = -7
    again = _build(threads, outputs).run([images])
    np.testing.assert_array_equal(again[0], values[outputs[0]])


def test_constant_can_be_an_output() -> None:
    builder = _core.ProgramBuilder()
    constant = builder.constant(np.arange(6, dtype=np.float32).reshape(2, 3))
    x = builder.input("x", [2, 3])
    program = builder.build([constant, builder.add("add", [x, constant], {})])
    ones = np.ones((2, 3), np.float32)
    known, summed = program.run([ones])
    np.testing.assert_array_equal(known, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(summed, known + ones)


def test_inputs_are_left_alone_and_need_not_be_contiguous() -> None:
    program = _build()
    wide = np.random.default_rng(1).random((9, 14, 28, 2), np.float32)
    images = wide[:, :, ::2, :1]
    before = wide.copy()
    (result,) = program.run([images])
    np.testing.assert_array_equal(wide, before)
    np.testing.assert_array_equal(result, program.run([np.ascontiguousarray(images)])[0])


def test_one_program_runs_in_many_threads_at_once() -> None:
    program = _build(2)
    batches = [1, 2, 5, 33, 64, 1, 17, 100]
    expected = [_one_by_one(_images(count, seed=count))[-1] for count in batches]
    wrong: list[int] = []

    def work(place: int) -> None:
        images = _images(batches[place], seed=batches[place])
        for _ in range(30):
            if not np.array_equal(program.run([images])[0], expected[place]):
                wrong.append(place)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(len(batches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_program_runs_in_a_forked_child() -> None:
    program, images = _build(2), _images(40)
    (expected,) = program.run([images])  # its threads exist now, and will not in the child
    child = os.fork()
    if child == 0:
        same = np.array_equal(program.run([images])[0], expected)
        one = np.array_equal(program.run([images[:1]])[0], expected[:1])
        os._exit(0 if same and one else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(program.run([images])[0], expected)


def test_steps_can_be_timed() -> None:
    program = _build(2)
    seconds = program.time_steps([_images(50)])
    assert len(seconds) == len(program.steps()) == 4  # a reshape is a view
    assert all(0 < each < 10 for each in seconds)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "inputs: expected 1 arrays, got 0"),
        ([np.zeros((1, *SIZE), np.float32)] * 2, "inputs: expected 1 arrays, got 2"),
        ([np.zeros((1, 14, 14), np.float32)], r"input 'x': expected shape \(n, 14, 14, 1\)"),
        ([np.zeros((1, 14, 15, 1), np.float32)], r"got \(1, 14, 15, 1\)"),
        ([np.zeros((1, *SIZE))], "float64"),
        ([[[0.0]]], "expected a NumPy array, got list"),
    ],
)
def test_program_refuses_what_does_not_fit(inputs: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _build().run(inputs)


def test_large_results_are_not_overwritten_by_later_runs() -> None:
    # Their memory is used again, but only once nobody holds them any more.
    builder = _core.ProgramBuilder()
    x = builder.input("x", [-1, 64])
    program = builder.build([builder.add("activation", [x], {"activation": "abs"})])
    kept = [program.run([np.full((200, 64), -value, np.float32)])[0] for value in range(20)]
    view = kept[3][5:]
    del kept[3]
    again = [program.run([np.full((200, 64), 99, np.float32)])[0] for _ in range(20)]
    for value, result in zip([v for v in range(20) if v != 3], kept, strict=True):
        assert (result == value).all()
    assert (view == 3).all()
    assert all((result == 99).all() for result in again)
