"""The embedded demo: a small base model, a captioner for its pictures, a data set with something new.

The two models are made by `make_base` and `make_captioner`; docs/demo.md tells how and how well they do.
"""

from pathlib import Path

BASE_MODEL = Path(__file__).parent / "base"
CAPTIONER = Path(__file__).parent / "captioner"
