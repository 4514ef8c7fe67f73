"""Processes that fork once programs have run, or while they run: children compute too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pyconv
from pyconv import _core
from pyconv.engines import native

FloatArray = NDArray[np.float32]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

CHILD_SECONDS = 120  # far more than a child needs; one that waits for ever ends then


def _in_child(succeeds: Callable[[], bool]) -> bool:
    """Whether that is true in a forked child, which is ended if it hangs."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_SECONDS)
        status = 1
        try:
            status = 0 if succeeds() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@contextmanager
def _busy_threads(count: int, work: Callable[[], Any]) -> Iterator[None]:
    """Threads that do the work again and again meanwhile."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            work()

    threads = [threading.Thread(target=repeat) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("threads", [1, 2])
def test_child_computes_that_was_forked_amid_the_work_of_other_threads(threads: int) -> None:
    # So little work that the threads are often inside the program's own lists when the fork comes.
    builder = _core.ProgramBuilder()
    x = builder.input("x", [-1, 4])
    weights = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    program = builder.build([builder.add("dense", [x], {"weights": weights})], threads=threads)
    images = np.random.default_rng(1).random((3, 4), np.float32)
    (expected,) = program.run([images])
    with _busy_threads(3, lambda: program.run([images])):
        for _ in range(40):
            assert _in_child(lambda: bool((program.run([images])[0] == expected).all()))
    np.testing.assert_array_equal(program.run([images])[0], expected)


def test_child_makes_programs_of_its_own() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    parent = pyconv.load("digits", threads=2)
    expected = parent.predict(images)

    def loads_and_predicts() -> bool:
        child = pyconv.load("digits", threads=2)
        other = pyconv.load("digits", threads=3)
        return all(np.array_equal(model.predict(images), expected) for model in (child, other))

    assert _in_child(loads_and_predicts)


def test_child_compiles_that_was_forked_amid_a_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)
    model = pyconv.load("digits")
    engine = model._engine
    assert isinstance(engine, native.NativeEngine)
    compile_network = engine._compile
    inside, forked = threading.Event(), threading.Event()

    def slow(*args: Any, **settings: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            forked.wait()
        return compile_network(*args, **settings)

    monkeypatch.setattr(engine, "_compile", slow)
    compiling = threading.Thread(target=lambda: model.activations(images, ["max_pooling2d"]))
    compiling.start()
    inside.wait()
    try:
        assert _in_child(lambda: "max_pooling2d" in model.activations(images, ["max_pooling2d"]))
    finally:
        forked.set()
        compiling.join()


_model: pyconv.Model  # of the parent, for its children


def _predict(images: NDArray[np.uint8]) -> FloatArray:
    return _model.predict(images)


def test_processes_of_a_pool_use_their_parent_s_model() -> None:
    global _model
    _model = pyconv.load("fashion", threads=2)
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    expected = _model.predict(images)  # on threads, which the children lack
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=fork) as pool:
        parts = list(pool.map(_predict, np.array_split(images, 8)))
    np.testing.assert_array_equal(np.concatenate(parts), expected)
