from __future__ import annotations

from pathlib import Path

import pytest

from pyconv.errors import InputError, ModelError
from pyconv.server.errors import NotFoundError
from pyconv.server.models import Models
from pyconv.server.settings import ModelSpec


@pytest.fixture(scope="module")
def one(small_classifier: Path) -> Models:
    return Models.load([ModelSpec("small", str(small_classifier))], ["onnxruntime"], 1)


@pytest.fixture(scope="module")
def several(small_classifier: Path) -> Models:
    specs = [ModelSpec(name, str(small_classifier)) for name in ("shoes", "shirts")]
    return Models.load(specs, ["onnxruntime", "native"], 1)


def test_select_by_name_and_engine(several: Models) -> None:
    served = several.select("shirts", "native")
    assert served.name == "shirts"
    assert served.model.engine == "native"
    assert served.layers == ("conv2d", "flatten", "dense")


def test_select_without_an_engine_takes_the_first(several: Models) -> None:
    assert several.select("shoes", None).model.engine == "onnxruntime"


def test_select_without_a_name_takes_the_only_model(one: Models) -> None:
    assert one.select("", None).name == "small"


def test_select_without_a_name_among_several_is_refused(several: Models) -> None:
    with pytest.raises(InputError, match="say which one; this server has shoes, shirts"):
        several.select("", None)


def test_select_of_an_unknown_name_suggests_the_nearest(several: Models) -> None:
    with pytest.raises(NotFoundError, match="no model 'shoe'; did you mean 'shoes'"):
        several.select("shoe", None)


def test_select_of_an_engine_that_is_not_loaded(one: Models) -> None:
    with pytest.raises(NotFoundError, match="not loaded on the engine 'native' here; it is on onn"):
        one.select("small", "native")


def test_names_and_engines_keep_their_order(several: Models) -> None:
    assert several.names == ["shoes", "shirts"]
    assert several.engines("shirts") == ["onnxruntime", "native"]


def test_load_of_a_missing_file() -> None:
    with pytest.raises(ModelError, match=r"no model 'nowhere\.onnx'"):
        Models.load([ModelSpec("x", "nowhere.onnx")], ["onnxruntime"], 1)
