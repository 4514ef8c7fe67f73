"""What a load test found: for programs as JSON, for people as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pyconv.load_test.generator import Load, Measured

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_BUCKETS = 20
_BUSY = 0.9


@dataclass(frozen=True, slots=True)
class Cell:
    """One load and what came of it.

    Attributes:
        load: what was sent when.
        images: images a request.
        measured: what came back.
    """

    load: Load
    images: int
    measured: Measured

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.measured.latencies) / self.measured.seconds

    @property
    def failed(self) -> int:
        """Requests that were not answered well."""
        return self.measured.failures.total()

    def latencies_ms(self) -> NDArray[np.float64]:
        """Every latency, in milliseconds."""
        return np.frombuffer(self.measured.latencies, np.float64) * 1e3

    def percentiles_ms(self) -> dict[str, float]:
        """Exact percentiles of the latencies, with the least, the mean and the most."""
        values = self.latencies_ms()
        if not values.size:
            return {}
        # The nearest rank from above: a latency that really was, never one between two.
        ranks = np.percentile(values, PERCENTILES, method="higher")
        return {
            "min": float(values.min()),
            "mean": float(values.mean()),
            **{
                f"p{percent:g}": float(rank)
                for percent, rank in zip(PERCENTILES, ranks, strict=True)
            },
            "max": float(values.max()),
        }

    def histogram(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """How many latencies lie in each of 20 buckets, and the buckets' 21 edges in ms.

        The edges grow by one factor from the least latency to the most.
        """
        values = self.latencies_ms()
        if not values.size:
            return np.zeros(0, np.int64), np.zeros(0)
        low, high = float(values.min()), float(values.max())
        edges = np.geomspace(low, max(high, low * (1 + 1e-9)), _BUCKETS + 1)
        edges[0], edges[-1] = low, max(high, edges[-1])
        counts, _ = np.histogram(values, edges)
        return counts.astype(np.int64), edges

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        counts, edges = self.histogram()
        measured = self.measured
        return {
            "loop": "closed" if self.load.rate is None else "open",
            "rate": self.load.rate,
            "concurrency": self.load.concurrency,
            "connections": self.load.connections,
            "images_per_request": self.images,
            "seconds": measured.seconds,
            "answered": len(measured.latencies),
            "requests_per_second": self.per_second,
            "images_per_second": self.per_second * self.images,
            "latency_ms": self.percentiles_ms(),
            "histogram": {"edges_ms": edges.tolist(), "counts": counts.tolist()},
            "failures": {
                status: {"count": count, "first": measured.messages[status]}
                for status, count in measured.failures.items()
            },
            "unsent": measured.unsent,
            "generator_cpu_share": measured.cpu_share,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A load test.

    Attributes:
        server: `HOST:PORT`.
        target: what was asked of it.
        protocol: in which protocol.
        cells: one for each load, in order.
    """

    server: str
    target: str
    protocol: str
    cells: Sequence[Cell]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; docs/load-test.md explains the form."""
        return {
            "server": self.server,
            "model": self.target,
            "protocol": self.protocol,
            "cells": [cell.to_dict() for cell in self.cells],
        }

    def render(self, *, histogram: bool = False) -> Iterator[RenderableType]:
        """What to print, in order."""
        yield Text(f"{self.target} at {self.server}, {self.protocol}")
        yield self._table()
        for cell in self.cells:
            if histogram and cell.measured.latencies:
                yield _bars(cell)
        yield from self._notes()

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        names = ["load", "requests/s", "images/s", *(f"p{p:g}" for p in PERCENTILES), "max"]
        for name in [*names, "failed"]:
            table.add_column(name, justify="left" if name == "load" else "right", no_wrap=True)
        for cell in self.cells:
            latency = cell.percentiles_ms()
            table.add_row(
                _load_name(cell.load),
                f"{cell.per_second:,.0f}",
                f"{cell.per_second * cell.images:,.0f}",
                *(
                    f"{latency[name]:.2f}" if latency else "–"
                    for name in (*(f"p{p:g}" for p in PERCENTILES), "max")
                ),
                Text(f"{cell.failed:,}", style="red" if cell.failed else ""),
            )
        table.caption = "Latencies in ms. " + (
            "Open loop: from when a request was due."
            if any(cell.load.rate for cell in self.cells)
            else "Closed loop: of callers who wait for each other; --rate measures at a given load."
        )
        table.caption_justify = "left"
        return table

    def _notes(self) -> Iterator[Text]:
        for cell in self.cells:
            name, measured = _load_name(cell.load), cell.measured
            for status, count in measured.failures.most_common():
                yield Text(f"{name}: {count:,} × {status}: {measured.messages[status]}", "red")
            if measured.unsent:
                yield Text(
                    f"{name}: {measured.unsent:,} requests were due and never sent, as "
                    f"{cell.load.concurrency:,} were in flight: the server does not keep up, or "
                    "allow more by --concurrency",
                    "red",
                )
            if measured.cpu_share > _BUSY:
                yield Text(
                    f"{name}: the generator itself used {measured.cpu_share:.0%} of a core: the "
                    "server may be faster than this; run it on another machine, or several",
                    "yellow",
                )


def _load_name(load: Load) -> str:
    if load.rate is None:
        return f"{load.concurrency:,} in flight"
    return f"{load.rate:,g} a second"


def _bars(cell: Cell) -> Table:
    counts, edges = cell.histogram()
    table = Table(
        title=f"Latencies with {_load_name(cell.load)}",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        show_header=False,
    )
    for justify in ("right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * round(40 * count / counts.max())
        table.add_row(f"{low:.2f}–{high:.2f} ms", f"{count:,}", bar or ("▏" if count else ""))
    return table
