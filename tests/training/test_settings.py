"""The settings of a run: what is refused, and what is the same run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pyconv.errors import InputError, ModelError
from pyconv.training import Settings
from pyconv.training.networks import check_sizes


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"network": "recurrent"}, "no network 'recurrent'"),
        ({"schedule": "linear"}, "no schedule 'linear'"),
        ({"shift": -1}, "shift: expected at least 0, got -1"),
        ({"filters": ()}, "filters: expected a count of at least 1"),
        ({"filters": (8, 0)}, r"got \[8, 0\]"),
        ({"kernel_size": 0}, "kernel_size: expected at least 1, got 0"),
        ({"pool": 0}, "pool: expected at least 1"),
        ({"hidden": 0}, "hidden: expected at least 1"),
        ({"epochs": 0}, "epochs: expected at least 1"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected more than 0"),
        ({"learning_rate": float("inf")}, "learning_rate: expected more than 0"),
        ({"seed": 2**32}, "seed: expected at most 4294967295, got 4294967296"),
        ({"stop_at_accuracy": 98.0}, "such as 0.98, got 98.0"),
        ({"validation": -1}, "validation: expected at least 0"),
    ],
)
def test_settings_refuse_what_cannot_be(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings("mnist", **setting)


def test_settings_survive_their_file(tmp_path: Path) -> None:
    settings = Settings("mnist", filters=(3, 5), stop_at_accuracy=0.98, learning_rate=3e-4)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings.to_dict()), encoding="utf-8")
    assert Settings.read(path) == settings


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": "mnist", "filters": [1], "x": 1}'])
def test_settings_file_that_is_none_is_said(text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"settings\.json: not the settings of a training run"):
        Settings.read(path)


def test_differences_name_the_settings_but_not_the_epochs() -> None:
    one = Settings("mnist", seed=0, filters=(64,), epochs=3)
    other = dataclasses.replace(one, seed=1, filters=(64, 64), epochs=9)
    assert one.differences(other) == ["filters: [64] and [64, 64]", "seed: 0 and 1"]
    assert one.differences(dataclasses.replace(one, epochs=9)) == []


def test_differences_name_the_epochs_that_a_schedule_runs_over() -> None:
    one = Settings("mnist", schedule="cosine", epochs=3)
    assert one.differences(dataclasses.replace(one, epochs=9)) == ["epochs: 3 and 9"]


@pytest.mark.parametrize(
    ("filters", "kernel_size", "pool", "message"),
    [
        ((8, 8, 8, 8), 3, 2, "convolution 4 of 4 would get maps of 1×1, smaller than its 3×3"),
        ((8,), 29, 1, "convolution 1 of 1 would get maps of 28×28, smaller than its 29×29"),
        ((8,) * 14, 3, 1, "convolution 14 of 14 would get maps of 2×2"),
        ((8, 8), 14, 2, "convolution 2 of 2 would get maps of 7×7, smaller than its 14×14"),
        ((8,), 28, 2, "pooling after convolution 1 of 1 would get maps of 1×1"),
    ],
)
def test_maps_that_shrink_away_are_said(
    filters: tuple[int, ...], kernel_size: int, pool: int, message: str
) -> None:
    settings = Settings("mnist", filters=filters, kernel_size=kernel_size, pool=pool)
    with pytest.raises(InputError, match=message):
        check_sizes(settings, (28, 28))


@pytest.mark.parametrize(
    ("filters", "kernel_size", "pool"),
    [((8, 8, 8), 3, 2), ((8,) * 13, 3, 1), ((8,), 28, 1), ((8,), 27, 2), ((8,) * 40, 1, 1)],
)
def test_maps_that_just_fit_are_taken(
    filters: tuple[int, ...], kernel_size: int, pool: int
) -> None:
    check_sizes(Settings("mnist", filters=filters, kernel_size=kernel_size, pool=pool), (28, 28))
