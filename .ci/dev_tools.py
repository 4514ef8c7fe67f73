"""Print the tools of the extra `dev` as requirements, without pyconv itself.

So that they can be installed beside a pyconv that is already built: `pip install -e ".[dev]"` would
build it again.
"""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in project["optional-dependencies"]["dev"]:
    if not requirement.startswith("pyconv["):
        print(requirement)
