"""Make the demo's base model from nothing: `python -m trainer.demo.make_base WORK_FOLDER`.

Stops at any time and goes on from the checkpoints in the work folder when the same command runs again.
"""

import argparse
from pathlib import Path

from trainer.demo.team import work_together


def main() -> None:
    """Train the VAE, then U-Net and text encoder, and export the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for checkpoints")
    parser.add_argument("--processes", type=int, default=2, help="one-thread processes that train together")
    parser.add_argument("--vae-minutes", type=float, default=13)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    from trainer.demo.vae import train_vae

    work_together(train_vae, options.processes, options.vae_minutes, options.work / "vae.pt")


if __name__ == "__main__":
    main()
