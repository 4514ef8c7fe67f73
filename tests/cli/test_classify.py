from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

import pyconv
from pyconv import pictures
from pyconv.cli import main
from pyconv.server.background import BackgroundServer
from pyconv.server.settings import ModelSpec, Settings

_Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, make_png: Callable[..., bytes]) -> Path:
    """Holds boot.png, shirt.png and notes.txt."""
    for seed, name in enumerate(("boot.png", "shirt.png")):
        (tmp_path / name).write_bytes(make_png(30, 40, seed))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.fixture(scope="module")
def address(small_classifier: Path) -> Iterator[str]:
    settings = Settings(
        models=[ModelSpec("shoes", str(small_classifier))], engines=["onnxruntime"], port=0
    )
    with BackgroundServer(settings) as address:
        yield address


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_classify_without_a_server_says_what_the_model_says(
    folder: Path, small_classifier: Path, engine: str, capsys: _Output
) -> None:
    paths = [str(folder / "boot.png"), str(folder / "shirt.png")]
    flags = ["--model", str(small_classifier), "--engine", engine, "--top", "2", "--json"]
    assert main(["classify", *paths, *flags]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["engine"]) == ("small", engine)
    model = pyconv.load(small_classifier, engine=engine)  # type: ignore[arg-type]
    assert model.input_contract is not None
    expected = model.classify(pictures.prepare_all(paths, model.input_contract), top=2)
    assert [result["picture"] for result in facts["results"]] == paths
    for result, predictions in zip(facts["results"], expected, strict=True):
        assert result["predictions"] == [
            {"label": item.label, "index": item.index, "probability": item.probability}
            for item in predictions
        ]
        assert result["compute_ms"] > 0


def test_classify_compares_the_engines_and_times_the_steps(
    folder: Path, small_classifier: Path, capsys: _Output
) -> None:
    asked = ["classify", str(folder / "boot.png"), "--model", str(small_classifier)]
    asked += ["--compare", "--profile"]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "native beside onnxruntime: no layer diverges" in printed
    assert "what each step takes" in printed
    assert main([*asked, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    layers = [row["name"] for row in result["comparison"]["layers"]]
    assert layers == ["conv2d", "flatten", "dense", "scores"]
    assert all(row["largest_value"] > 0 for row in result["comparison"]["layers"])
    computed = {name for step in result["steps"] for name in step["layers"]}
    assert {"conv2d", "dense"} <= computed
    assert all(step["ms"] > 0 for step in result["steps"])


def test_classify_with_layers_edited(folder: Path, small_classifier: Path, capsys: _Output) -> None:
    picture = str(folder / "boot.png")
    model = pyconv.load(small_classifier, engine="onnxruntime")
    assert model.input_contract is not None
    (maps,) = model.activations(
        pictures.prepare_all([picture], model.input_contract), ["conv2d"]
    ).values()
    maps[..., [0, 2, 3]] = 0
    np.save(folder / "maps.npy", maps)
    layer = model.layer("conv2d")
    rest = model.resumed([layer.tensor])
    (scores,) = rest.run({layer.tensor: maps.transpose(np.argsort(layer.axes))}).values()
    best = int(scores[0].argmax())
    asked = ["classify", picture, "--model", str(small_classifier), "--json"]
    for edit in (["--silence", "conv2d:0,2-3"], ["--replace", f"conv2d={folder / 'maps.npy'}"]):
        assert main([*asked, *edit]) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        (said,) = result["predictions"]
        assert said["index"] == best
        assert said["probability"] == pytest.approx(scores[0, best], abs=1e-6)
    assert main(asked) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["predictions"][0]["probability"] != pytest.approx(scores[0].max(), abs=1e-3)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (["--silence", "conv2d"], "--silence: expected LAYER:CHANNELS"),
        (["--silence", ":3"], "--silence: expected LAYER:CHANNELS"),
        (["--silence", "conv2d:3-1"], "expected channels such as 0,3 or 8-15 behind the colon"),
        (["--silence", "conv2d:0,"], "expected channels such as 0,3 or 8-15 behind the colon"),
        (["--silence", "conv2d:4"], "layer 'conv2d' has 4 channels, 0 to 3; got 4"),
        (["--silence", "conv:0"], "there is no layer 'conv'; did you mean 'conv2d'"),
        (["--replace", "conv2d"], "--replace: expected LAYER=FILE"),
        (["--replace", "conv2d={folder}/none.npy"], "none.npy: cannot be read: No such file"),
        (["--replace", "conv2d={folder}/notes.txt"], "notes.txt: expected arrays as NumPy writes"),
        (["--replace", "conv2d={folder}/a.npz"], "there is no array 'conv2d' (known: dense)"),
        (["--replace", "dense={folder}/a.npz"], "'dense': expected float32 of shape (1, 3) for 1"),
        (["--replace", "conv2d={folder}/two.npy"], "expected an array of 1 image, got 2"),
        (
            ["--replace", "flat={folder}/a.zip"],
            "layer 'flat': {folder}/a.zip: expected an array as",
        ),
        (
            ["--replace", "a={folder}/text.npy"],
            "layer 'a': {folder}/text.npy: expected an array of",
        ),
        (["--replace", "a={folder}/bad.npz"], "layer 'a': {folder}/bad.npz: expected arrays as Nu"),
        (["--replace", "x={folder}/a.npz", "--silence", "dense:0"], "there is no array 'x'"),
        (["--silence", "conv2d:0", "--compare"], "layers can be edited, or engines compared"),
        (["--silence", "conv2d:0", "--ray", "--out", "x"], "--silence does not go with --ray"),
    ],
)
def test_classify_with_edits_that_make_no_sense(
    folder: Path, small_classifier: Path, edit: list[str], message: str, capsys: _Output
) -> None:
    np.savez(folder / "a.npz", dense=np.zeros((1, 2), np.float32))
    np.save(folder / "two.npy", np.zeros((2, 4, 6, 4), np.float32))
    np.save(folder / "text.npy", np.array(["a"]))
    with ZipFile(folder / "a.zip", "w") as file:
        file.writestr("flat", b"no array")
    np.savez_compressed(folder / "bad.npz", a=np.arange(99.0))
    damaged = bytearray((folder / "bad.npz").read_bytes())
    damaged[60:70] = b"\xff" * 10  # within the compressed stream
    (folder / "bad.npz").write_bytes(damaged)
    told = [text.replace("{folder}", str(folder)) for text in edit]
    picture, model = str(folder / "boot.png"), str(small_classifier)
    assert main(["classify", picture, "--model", model, *told]) == 1
    assert message.replace("{folder}", str(folder)) in capsys.readouterr().err


def test_classify_leaves_no_server_behind(folder: Path, small_classifier: Path) -> None:
    before = set(threading.enumerate())
    flags = ["--model", str(small_classifier), "--engine", "onnxruntime"]
    assert main(["classify", str(folder / "boot.png"), *flags]) == 0
    assert main(["classify", str(folder / "notes.txt"), *flags]) == 1
    left = set(threading.enumerate()) - before
    assert not [thread.name for thread in left if "pyconv" in thread.name]


def test_classify_through_a_server(address: str, folder: Path, capsys: _Output) -> None:
    assert main(["classify", str(folder / "boot.png"), "--server", address]) == 0
    heading, row, blank, footer = capsys.readouterr().out.rstrip().split("\n")
    assert heading.split() == ["picture", "label", "probability"]
    name, label, probability = row.split()
    assert name == str(folder / "boot.png")
    assert label in ("left", "right", "flat")
    assert 1 / 3 <= float(probability) <= 1
    assert blank == ""
    assert footer.startswith("shoes on onnxruntime: ")


def test_classify_names_what_cannot_be_read_and_goes_on(
    address: str, folder: Path, capsys: _Output
) -> None:
    names = ["missing.png", "boot.png", "notes.txt", "shirt.png"]
    paths = [str(folder / name) for name in names]
    assert main(["classify", *paths, "--server", address]) == 1
    output = capsys.readouterr()
    assert "boot.png" in output.out
    assert "shirt.png" in output.out
    missing, notes = output.err.splitlines()
    assert missing == f"pyconv classify: {paths[0]}: cannot be read: No such file or directory"
    assert notes.startswith(f"pyconv classify: {paths[2]}: is not a picture")


def test_classify_tells_of_failures_in_json(address: str, folder: Path, capsys: _Output) -> None:
    paths = [str(folder / "notes.txt"), str(folder / "boot.png")]
    assert main(["classify", *paths, "--server", address, "--json"]) == 1
    failed, answered = json.loads(capsys.readouterr().out)["results"]
    assert "is not a picture" in failed["error"]
    assert "predictions" not in failed
    assert "error" not in answered


def test_classify_saves_what_the_network_saw(
    address: str, folder: Path, make_png: Callable[..., bytes], capsys: _Output
) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "boot.png").write_bytes(make_png(50, 50, 9))
    paths = [str(folder / "boot.png"), str(folder / "other" / "boot.png")]
    flags = ["--server", address, "--save-input", str(folder / "seen"), "--json"]
    assert main(["classify", *paths, *flags]) == 0
    saved = [result["input"] for result in json.loads(capsys.readouterr().out)["results"]]
    assert saved == [str(folder / "seen" / "boot.png"), str(folder / "seen" / "boot-2.png")]
    first, second = (np.asarray(Image.open(path)) for path in saved)
    assert first.shape == second.shape == (6, 8)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nothing"], "there is no model 'nothing'"),
        (["--engine", "native"], "not loaded on the engine 'native' here; it is on onnxruntime"),
        (["--top", "0"], "--top: expected at least 1, got 0"),
    ],
)
def test_classify_with_a_wrong_flag_is_one_error(
    address: str, folder: Path, flags: list[str], message: str, capsys: _Output
) -> None:
    paths = [str(folder / "boot.png"), str(folder / "shirt.png")]
    assert main(["classify", *paths, "--server", address, *flags]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert message in line


def test_classify_where_nobody_listens(folder: Path, capsys: _Output) -> None:
    assert main(["classify", str(folder / "boot.png"), "--server", "127.0.0.1:1"]) == 1
    assert "nothing answers at 127.0.0.1:1" in capsys.readouterr().err


def test_classify_with_a_broken_model(folder: Path, capsys: _Output) -> None:
    flags = ["--model", str(folder / "notes.txt")]
    assert main(["classify", str(folder / "boot.png"), *flags]) == 1
    assert "notes.txt: not an ONNX file" in capsys.readouterr().err
