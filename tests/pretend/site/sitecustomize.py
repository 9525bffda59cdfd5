"""Imported by every Python started with this folder on its path: makes the pretending jobs known."""

import trainer.jobs

trainer.jobs.PACKAGES = (*trainer.jobs.PACKAGES, "tests.pretend")
