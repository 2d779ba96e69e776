"""Compare a backbone with others: time and peak memory, interleaved in one process.

SUBJECT and what it is compared with are config files, calls such as
"GCViT(arch='tiny', window_size=24)", or names of peers. Of a config its backbone runs, without
loading weights. Stochastic depth and dropout are off on all sides.

A peer 'without-...' is the subject with one part taken out that makes it fast or small.

Examples:
    python tools/benchmark.py configs/mask_gcvit_t_3x.py --against transcription mmdet-swin-t
    python tools/benchmark.py "GPViT(arch='L1')" --against convnext-t --mode forward --plot a.png
    python tools/benchmark.py "GCViT(arch='tiny')" --against without-aligned-bias --mode forward
    python tools/benchmark.py --suite cpu --json cpu.json
    python tools/benchmark.py --operators --only roi_align
    python tools/benchmark.py --growth --json growth.json --plot growth.png
"""

from benchmark.command import main  # the folder beside this file

from gcvit_mm.cli import run_tool

if __name__ == '__main__':
    run_tool(main)
