"""Jobs that only pretend to work, for tests of the processes around them."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent


def environment() -> dict[str, str]:
    """Variables under which a fresh Python knows the pretending jobs (through `site/sitecustomize.py`)."""
    return {"PYTHONPATH": os.pathsep.join([str(HERE / "site"), str(HERE.parent.parent)])}
