"""Says how many of ONNX's own tests pass."""

from __future__ import annotations

from collections import Counter

import pytest

_passed: Counter[str] = Counter()
_ran: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what becomes of the tests that carry a `suite`."""
    suite = dict(report.user_properties).get("suite")
    if suite is not None and report.when == "call":
        _ran[str(suite)] += 1
        _passed[str(suite)] += report.passed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each suite."""
    for suite, count in _ran.items():
        terminalreporter.write_line(f"ONNX {suite}: {_passed[suite]} passed of {count}")
