"""Models that come, go and change while requests are in flight."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pyconv.engines.base import Array
from pyconv.errors import ModelError
from pyconv.server.errors import NotFoundError
from pyconv.server.inference import Inference
from pyconv.server.models import Models
from pyconv.server.repository import Repository
from pyconv.server.requests import Selection, TensorRequest
from pyconv.server.settings import ModelSettings, ModelSpec, Settings

_IMAGES = np.random.default_rng(3).random((2, 6, 8, 1), np.float32)

Write = Callable[[Path, float], None]


@pytest.fixture(scope="session")
def write_scaled(small_classifier: Path) -> Write:
    """Writes the small network to a path, its convolution's bias replaced by one number."""

    def write(path: Path, bias: float) -> None:
        model = onnx.load(str(small_classifier))
        for tensor in model.graph.initializer:
            if tensor.name == "bias":
                tensor.CopyFrom(numpy_helper.from_array(np.full(4, bias, np.float32), "bias"))
        path.parent.mkdir(exist_ok=True, parents=True)
        new = path.with_suffix(".new")
        onnx.save(model, new)
        new.replace(path)

    return write


@asynccontextmanager
async def _repository(
    settings: Settings, folder: Path, **changed: object
) -> AsyncIterator[Repository]:
    settings = replace(
        settings,
        models=(),
        model_dir=folder,
        engines=["native"],
        **{"watch_seconds": 0, **changed},  # type: ignore[arg-type]
    )
    inference = Inference(Models(), settings)
    repository = Repository(inference, settings)
    await repository.start()
    try:
        yield repository
    finally:
        await repository.close()
        inference.close()


async def _bias(repository: Repository, version: str = "") -> tuple[str, Array]:
    """The version that answered, and what its first layer puts out."""
    request = TensorRequest(Selection("net", None, version), {"pixels": _IMAGES})
    inferred = await repository._inference.infer(request)
    return inferred.served.version, inferred.outputs[0][1]


def _index(repository: Repository) -> list[tuple[str, str, str]]:
    return [(item.name, item.version, item.state) for item in repository.index()]


async def test_files_and_folders_of_versions_are_loaded(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    write_scaled(tmp_path / "flat.onnx", 0)
    for version in ("2", "10"):
        write_scaled(tmp_path / "net" / version / "model.onnx", int(version))
    (tmp_path / "net" / "notes").mkdir()
    (tmp_path / "README.md").touch()
    async with _repository(settings, tmp_path) as repository:
        assert _index(repository) == [
            ("flat", "1", "READY"),
            ("net", "2", "READY"),
            ("net", "10", "READY"),
        ]
        assert repository.is_ready("net", "2")
        assert not repository.is_ready("net", "3")
        version, newest = await _bias(repository)
        assert version == "10"
        version, older = await _bias(repository, "2")
        assert version == "2"
        assert not np.allclose(newest, older)


async def test_a_model_of_the_folder_has_settings_of_its_own(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    for name in ("net", "other"):
        write_scaled(tmp_path / f"{name}.onnx", 1)
    own = {"net": ModelSettings(("onnxruntime", "native"), max_batch=3, max_wait_ms=0)}
    async with _repository(
        settings, tmp_path, model_settings=own, max_batch=5, max_wait_ms=7
    ) as repository:
        inference = repository._inference
        engines = {name: inference.models.engines(name) for name in ("net", "other")}
        assert engines == {"net": ["onnxruntime", "native"], "other": ["native"]}
        waits = [repository.describe(name).max_wait_ms for name in ("net", "other")]
        assert waits == [0, 7]
        lanes = [inference._lane(inference.models.select(name, None)) for name in engines]
        assert [(lane.max_batch, lane.max_wait_s) for lane in lanes] == [(3, 0), (5, 0.007)]


async def test_settings_by_names_that_nothing_has_are_warned_of(
    settings: Settings, tmp_path: Path, write_scaled: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write_scaled(tmp_path / "small.onnx", 0)
    own = {"small": ModelSettings(max_batch=2), "smal": ModelSettings(max_batch=2)}
    layers = ["conv2d", "conv3d"]
    async with _repository(settings, tmp_path, model_settings=own, observed_layers=layers):
        pass
    warnings = [each.message.partition(" or ")[0] for each in caplog.records]
    assert warnings == [
        "model_settings: there is no model 'smal'; did you mean 'small'? (known: small)",
        "observed_layers: there is no layer 'conv3d'; did you mean 'conv2d'? "
        "(known: conv2d, flatten, dense)",
    ]


async def test_a_broken_file_hinders_no_other(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    write_scaled(tmp_path / "net.onnx", 0)
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    async with _repository(settings, tmp_path) as repository:
        assert _index(repository) == [("net", "1", "READY"), ("broken", "", "UNAVAILABLE")]
        assert repository.index()[1].reason.startswith("broken: not an ONNX file")
        (tmp_path / "many" / "2").mkdir(parents=True)
        write_scaled(tmp_path / "many" / "1" / "model.onnx", 0)
        (tmp_path / "many" / "2" / "model.onnx").write_bytes(b"no network")
        with pytest.raises(ModelError, match=r"^many, version 2: not an ONNX file"):
            await repository.load("many")


async def test_a_broken_file_leaves_the_old_one_serving_and_says_so(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    path = tmp_path / "net.onnx"
    write_scaled(path, 1)
    async with _repository(settings, tmp_path) as repository:
        _, before = await _bias(repository)
        path.write_bytes(b"no network")
        with pytest.raises(ModelError, match=r"^net: not an ONNX file"):
            await repository.load("net")
        np.testing.assert_array_equal((await _bias(repository))[1], before)
        (entry,) = repository.index()
        assert (entry.state, entry.reason[:21]) == ("READY", "net: not an ONNX file")
        write_scaled(path, 2)
        await repository.load("net")
        assert not np.allclose((await _bias(repository))[1], before)
        assert repository.index()[0].reason == ""


async def test_a_given_file_that_is_deleted_leaves_the_old_one_serving(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    path = tmp_path / "net.onnx"
    write_scaled(path, 1)
    given = replace(
        settings, models=[ModelSpec("net", str(path))], engines=["native"], watch_seconds=0
    )
    inference = Inference(Models(), given)
    repository = Repository(inference, given)
    await repository.start()
    try:
        path.unlink()
        await repository.reload()
        assert repository.is_ready("net")
        (entry,) = repository.index()
        assert "there is no model" in entry.reason
    finally:
        await repository.close()
        inference.close()


async def test_a_network_whose_output_is_no_number_does_not_take_over(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    path = tmp_path / "net.onnx"
    write_scaled(path, 1)
    async with _repository(settings, tmp_path) as repository:
        write_scaled(path, float("nan"))
        with pytest.raises(ModelError, match="the network's output is not finite"):
            await repository.load("net")
        assert np.isfinite((await _bias(repository))[1]).all()


@pytest.mark.parametrize("name", ["nothing", "../net", ""])
async def test_what_is_not_in_the_folder_cannot_be_loaded(
    settings: Settings, tmp_path: Path, write_scaled: Write, name: str
) -> None:
    write_scaled(tmp_path / "net.onnx", 1)
    (tmp_path / "inner").mkdir()
    async with _repository(settings, tmp_path / "inner") as repository:
        with pytest.raises(NotFoundError, match="there is no model"):
            await repository.load(name)


async def test_unload_and_load(settings: Settings, tmp_path: Path, write_scaled: Write) -> None:
    write_scaled(tmp_path / "net.onnx", 1)
    async with _repository(settings, tmp_path) as repository:
        await repository.unload("net")
        assert _index(repository) == [("net", "", "UNAVAILABLE")]
        with pytest.raises(NotFoundError, match="there is no model 'net'"):
            await _bias(repository)
        with pytest.raises(NotFoundError, match="there is no model 'net'"):
            await repository.unload("net")
        await repository.load("net")
        await _bias(repository)


async def test_the_folder_is_watched(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    async def until(state: list[tuple[str, str, str]]) -> None:
        async with asyncio.timeout(180):
            while _index(repository) != state:
                await asyncio.sleep(0.01)

    async with _repository(settings, tmp_path, watch_seconds=0.02) as repository:
        assert _index(repository) == []
        write_scaled(tmp_path / "net" / "1" / "model.onnx", 1)
        await until([("net", "1", "READY")])
        write_scaled(tmp_path / "net" / "2" / "model.onnx", 2)
        await until([("net", "1", "READY"), ("net", "2", "READY")])
        _, before = await _bias(repository)
        write_scaled(tmp_path / "net" / "2" / "model.onnx", 3)
        async with asyncio.timeout(180):
            while np.allclose((await _bias(repository))[1], before):
                await asyncio.sleep(0.01)
        shutil.rmtree(tmp_path / "net")
        await until([])


def _mount(folder: Path, contents: Path) -> None:
    """Put files in place at once, by swapping a link, as Kubernetes does with a ConfigMap."""
    new = folder / "..data_tmp"
    new.symlink_to(contents.name)
    new.replace(folder / "..data")


async def test_a_folder_whose_files_are_swapped_by_a_link(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    write_scaled(tmp_path / "..first" / "net.onnx", 1)
    write_scaled(tmp_path / "..first" / "fine" / "model.onnx", 1)
    _mount(tmp_path, tmp_path / "..first")
    (tmp_path / "net.onnx").symlink_to("..data/net.onnx")
    (tmp_path / "._net.onnx").write_bytes(b"what macOS leaves beside a file")
    async with _repository(settings, tmp_path) as repository:
        assert _index(repository) == [("net", "1", "READY")]
        _, before = await _bias(repository)
        write_scaled(tmp_path / "..second" / "net.onnx", 2)
        _mount(tmp_path, tmp_path / "..second")
        shutil.rmtree(tmp_path / "..first")
        await repository.reload()
        assert _index(repository) == [("net", "1", "READY")]
        assert not np.allclose((await _bias(repository))[1], before)


async def test_a_subfolder_that_cannot_be_read_hinders_no_other(
    settings: Settings,
    tmp_path: Path,
    write_scaled: Write,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that never could, as lost+found; and one that no longer can, whose model serves on."""
    closed = {tmp_path / "lost+found"}
    look = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path in closed:  # root, who may run the tests, would read it in spite of its mode
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    (tmp_path / "lost+found").mkdir()
    write_scaled(tmp_path / "net" / "1" / "model.onnx", 1)
    write_scaled(tmp_path / "other.onnx", 1)
    both = [("net", "1", "READY"), ("other", "1", "READY")]
    async with _repository(settings, tmp_path) as repository:
        assert _index(repository) == both
        closed.add(tmp_path / "net")
        await repository.reload()
        assert _index(repository) == both
        told = "model {}: its folder cannot be read: Permission denied"
        for name in ("lost+found", "net"):
            assert caplog.text.count(told.format(name)) == 1
        closed.remove(tmp_path / "net")
        shutil.rmtree(tmp_path / "net")
        await repository.reload()
        assert _index(repository) == both[1:]


async def test_a_file_that_may_be_read_at_last_is_tried_again(
    settings: Settings, tmp_path: Path, write_scaled: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    write_scaled(path, 1)
    load = onnx.load

    def load_if_allowed(*arguments: Any, **named: Any) -> onnx.ModelProto:
        if not path.stat().st_mode & 0o444:  # root, who may run the tests, would read it
            raise PermissionError(13, "Permission denied")
        return load(*arguments, **named)

    monkeypatch.setattr(onnx, "load", load_if_allowed)
    path.chmod(0)
    async with _repository(settings, tmp_path) as repository:
        (entry,) = repository.index()
        assert entry.state == "UNAVAILABLE"
        assert entry.reason == "net: cannot be read: Permission denied"
        path.chmod(0o644)
        await repository.reload()
        assert _index(repository) == [("net", "1", "READY")]


async def test_a_folder_that_goes_away_leaves_its_models_serving(
    settings: Settings, tmp_path: Path, write_scaled: Write, caplog: pytest.LogCaptureFixture
) -> None:
    folder, away = tmp_path / "models", tmp_path / "away"
    gone = "model_dir: the folder of models cannot be read: No such file"
    with pytest.raises(ModelError, match=gone):
        async with _repository(settings, folder):
            pass
    write_scaled(folder / "net.onnx", 1)
    async with _repository(settings, folder, watch_seconds=0.02) as repository:
        folder.rename(away)
        async with asyncio.timeout(180):
            while gone not in caplog.text:
                await asyncio.sleep(0.01)
        await repository.reload()
        await _bias(repository)
        assert _index(repository) == [("net", "1", "READY")]
        assert repository.state("net")
        assert repository.state("nothing") is None
        with pytest.raises(ModelError, match=gone):
            await repository.load("net")
        write_scaled(away / "other.onnx", 1)
        away.rename(folder)
        async with asyncio.timeout(180):
            while len(_index(repository)) < 2:
                await asyncio.sleep(0.01)
    assert "Traceback" not in caplog.text


async def test_nothing_is_lost_while_a_model_is_reloaded_100_times(
    settings: Settings, tmp_path: Path, write_scaled: Write
) -> None:
    path = tmp_path / "net.onnx"
    expected = []
    async with _repository(settings, tmp_path, max_queue=1000) as repository:
        for bias in (1, -1):
            write_scaled(path, bias)
            await repository.load("net")
            expected.append((await _bias(repository))[1])
        assert not np.allclose(*expected)
        done = asyncio.Event()
        answered = [0, 0]

        async def ask() -> None:
            while not done.is_set():
                await asyncio.sleep(0)  # a quick run is done before the loop has another turn
                _, scores = await _bias(repository)
                (which,) = [n for n in (0, 1) if np.allclose(scores, expected[n], rtol=1e-5)]
                answered[which] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(ask())
            for number in range(100):
                write_scaled(path, (1, -1)[number % 2])
                await repository.load("net")
            done.set()
    assert min(answered) > 0
    assert sum(answered) > 100
    assert len(repository._inference._lanes) <= 1
    assert len(repository._inference._scheduler._lanes) <= 2
