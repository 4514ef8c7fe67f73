"""Load on a server, and how long it took to answer.

`target` makes the request that is sent over and over, `generator` sends it and keeps the times, and
`report` says what came of it. Why requests go through libcurl: docs/decisions/0011-load-test.md.
"""

from pyconv.load_test.generator import Load, Measured, generate
from pyconv.load_test.report import Cell, Report
from pyconv.load_test.target import Target

__all__ = ["Cell", "Load", "Measured", "Report", "Target", "generate"]
