"""Compare backbones, operators and training steps; the folder beside this file does it."""

from benchmark.command import main

from gcvit_mm.cli import run_tool

if __name__ == '__main__':
    run_tool(main)
