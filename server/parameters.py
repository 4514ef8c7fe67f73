"""What a request's parameters ask for, on both transports of the Open Inference Protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Mapping
from typing import TypeAlias, cast, get_args

from pyconv.engines.base import EngineName
from pyconv.errors import InputError
from pyconv.server.requests import NOTHING_ELSE, TOLERANCE, Examination

Parameters: TypeAlias = Mapping[str, bool | int | float | str]


_SHARED_MEMORY = "shared_memory_region"

BOTH = "both"
"""In place of an engine: the native one answers, and the two are compared."""


def engine(parameters: Parameters) -> EngineName | None:
    """The engine that a request chooses; None where it does not.

    Raises:
        InputError: there is no such engine.
    """
    name = parameters.get("engine")
    if name is None:
        return None
    if name == BOTH:
        return "native"
    if name not in get_args(EngineName):
        raise InputError(
            f"parameter 'engine': expected one of {', '.join(get_args(EngineName))}, {BOTH}, "
            f"got {name!r}"
        )
    return cast(EngineName, name)


def deadline(
    parameters: Parameters, given: float | None, arrived: float | None = None
) -> float | None:
    """When the caller gives up, by `time.monotonic()`: the sooner of what it says in two ways.

    Args:
        parameters: of which `timeout` is in microseconds.
        given: what the transport says.
        arrived: when the request came; now if None.

    Raises:
        InputError: the timeout is no integer, or below 0.
    """
    timeout_us = parameters.get("timeout", 0)
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        raise InputError(
            f"parameter 'timeout': expected microseconds, an integer of at least 0, "
            f"got {timeout_us!r}"
        )
    if not timeout_us:
        return given
    asked = (time.monotonic() if arrived is None else arrived) + timeout_us / 1e6
    return asked if given is None else min(asked, given)


def examination(parameters: Parameters) -> Examination:
    """What a request asks beyond outputs.

    Raises:
        InputError: a parameter is not what it must be.
    """
    if not parameters:
        return NOTHING_ELSE
    tolerance = parameters.get("tolerance", TOLERANCE)
    if isinstance(tolerance, bool | str) or not 0 <= tolerance < float("inf"):
        raise InputError(f"parameter 'tolerance': expected a number from 0, got {tolerance!r}")
    return Examination(
        compare=parameters.get("engine") == BOTH,
        tolerance=tolerance,
        profile=truth("", "profile", parameters, default=False),
        silenced=_silenced(parameters.get("silence", "{}")),
    )


def _silenced(text: bool | float | str) -> dict[str, list[int]]:
    try:
        if not isinstance(text, str):
            raise TypeError
        found = json.loads(text)
        for name, channels in found.items():
            if not name or not all(type(channel) is int and channel >= 0 for channel in channels):
                raise TypeError
    except (AttributeError, RecursionError, TypeError, ValueError):
        raise InputError(
            "parameter 'silence': expected a JSON object of channels by layer, such as "
            f'{{"conv2d": [0, 3]}}, got {str(text)[:80]!r}'
        ) from None
    return dict(found)


def classes(output: str, parameters: Parameters) -> int:
    """How many classes to name in place of an output's numbers; 0: the numbers.

    Raises:
        InputError: that is no integer, or below 0; or they speak of shared memory.
    """
    refuse_shared_memory(f"output {output!r}", parameters)
    count = parameters.get("classification", 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError(
            f"output {output!r}: parameter 'classification': expected an integer of at least 0, "
            f"got {count!r}"
        )
    return count


def truth(where: str, name: str, parameters: Parameters, default: bool) -> bool:
    """A parameter that is true or false.

    Args:
        where: what an error calls its place.
        name: its name.
        parameters: those given.
        default: what it is where it is not given.

    Raises:
        InputError: it is neither.
    """
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{where}parameter {name!r}: expected true or false, got {value!r}")
    return value


def refuse_shared_memory(what: str, names: Container[str]) -> None:
    """Refuse a tensor that is said to lie in memory shared with the server.

    Raises:
        InputError: it is.
    """
    if _SHARED_MEMORY in names:
        raise InputError(
            f"{what}: parameter {_SHARED_MEMORY!r}: this server shares no memory with its callers; "
            "elements travel in the messages"
        )
