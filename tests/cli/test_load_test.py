from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyconv.cli import main
from pyconv.server.background import BackgroundServer
from pyconv.server.settings import ModelSpec, Settings


@pytest.fixture(scope="module")
def address(small_classifier: Path) -> Iterator[str]:
    specs = [ModelSpec("small", str(small_classifier))]
    with BackgroundServer(Settings(models=specs, port=0, max_images=8)) as address:
        yield address


_SHORT = ["--duration", "0.2", "--warmup", "0.1"]


@pytest.mark.parametrize("protocol", ["open-inference", "classifier"])
def test_load_test_as_json(address: str, protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--protocol", protocol, "--concurrency", "1,3", "--images-per-request", "2", "--json"]
    assert main(["load-test", address, *_SHORT, *flags]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["protocol"]) == ("small", protocol)
    assert [cell["concurrency"] for cell in facts["cells"]] == [1, 3]
    for cell in facts["cells"]:
        assert cell["loop"] == "closed"
        assert cell["failures"] == {}
        assert cell["images_per_second"] == 2 * cell["requests_per_second"] > 0
        assert sum(cell["histogram"]["counts"]) == cell["answered"]


def test_load_test_at_a_rate_as_a_table(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load-test", address, "--rate", "50,100", *_SHORT, "--histogram"]) == 0
    text = capsys.readouterr().out
    assert "50 a second" in text
    assert "100 a second" in text
    assert "█" in text


def test_load_test_asks_for_layers(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--output", "conv2d", "--output", "dense", "--json", "--concurrency", "2"]
    assert main(["load-test", address, *_SHORT, *flags]) == 0
    assert json.loads(capsys.readouterr().out)["cells"][0]["answered"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "smal"], "did you mean 'small'?"),
        (["--images-per-request", "0"], "images per request: expected at least 1"),
        (["--images-per-request", "9"], "RESOURCE_EXHAUSTED: "),
        (["--output", "conv2"], "NOT_FOUND: "),
        (["--output", "x", "--protocol", "classifier"], "--output: only the Open Inference"),
        (["--concurrency", "0"], "concurrency: expected 1 to"),
        (["--rate", "inf"], "rate: expected"),
        (["--tls-key", "key.pem"], "a client's certificate and its key go together"),
        (["--tls-ca", "no.pem"], "no.pem: cannot be read: No such file"),
        (["--token-file", "no.token"], "no.token: cannot be read: No such file"),
    ],
)
def test_load_test_that_cannot_start(
    flags: list[str], message: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load-test", address, *_SHORT, *flags]) == 1
    assert message in capsys.readouterr().err


def test_numbers_that_are_none(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["load-test", address, "--concurrency", "1;8"])
    assert "expected numbers with commas between them" in capsys.readouterr().err
