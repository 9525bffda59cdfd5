"""Peak memory of training steps, for each way of saving some: every row is a process of its own.

python -m benchmarks.memory                    a quarter of SD1.5's width, 256 pixels
python -m benchmarks.memory --size full --resolution 512 --mixed_precision fp16
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

ROWS: dict[str, list[str]] = {
    "plain": [],
    "gradient checkpointing": ["--checkpointing"],
    "AdamW instead of AdamW8bit": ["--optimizer", "AdamW"],
    "fp8 base": ["--set", "fp8_base=true"],
    "fp8 base, checkpointing": ["--set", "fp8_base=true", "--checkpointing"],
    "attention none": ["--set", "xformers=none"],
    "memory efficient attention": ["--set", "mem_eff_attn=true"],
    "batch of 4": ["--batch", "4"],
    "batch of 4, checkpointing": ["--batch", "4", "--checkpointing"],
    "LoCon": ["--type", "Kohya LoCon"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other arguments are handed on to benchmarks.training_step.",
    )
    _, rest = parser.parse_known_args()
    for name, options in ROWS.items():
        command = [sys.executable, "-m", "benchmarks.training_step", "--turns", "2", "--steps", "1", *rest, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"peak memory (\d+) MiB", done.stdout)
        print(f"{name:<28}{found[1] + ' MiB' if found else done.stderr.strip().splitlines()[-1]:>12}", flush=True)


if __name__ == "__main__":
    main()
