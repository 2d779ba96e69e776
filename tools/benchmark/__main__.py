"""``python tools/benchmark``: the same as ``python tools/benchmark.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.command import main  # noqa: E402
from gcvit_mm.cli import run_tool  # noqa: E402

if __name__ == '__main__':
    run_tool(main)
