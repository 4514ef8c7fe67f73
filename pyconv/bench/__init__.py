"""`pyconv bench`: the engines' speed, compared fairly. The methods stand in docs/benchmarks.md.

- `measure`: timing of callables against each other; knows no network.
- `machine`: the processor and its measured peak.
- `contestants`: who is compared; `inputs`: what they are fed.
- `comparison`: `compare`, which puts these together; `report`: what it returns, as plain data.
- `earlier`: a report beside an earlier one.
- `table` and `plot`: the report for people.
"""

from pyconv.bench.comparison import compare as compare
from pyconv.bench.measure import Budget as Budget
from pyconv.bench.report import Report as Report
