"""Convert a released checkpoint to the keys of this package.

The result serves as `init_cfg` of a backbone, and, where the source has a classifier or is a
whole detector, with tools/test.py.

Examples:
    python tools/convert_checkpoint.py gcvit_1k_tiny.pth.tar gcvit_t_in1k.pth
"""

import argparse
import os.path as osp
from typing import List, Optional

import torch

from gcvit_mm import UserError
from gcvit_mm.checkpoints import read_checkpoint, split_state_dict, unwrap
from gcvit_mm.cli import check_output, run_tool, whole_output


def main(argv: Optional[List[str]] = None) -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('src', help='path or address of the checkpoint')
    parser.add_argument('dst', help='file to write')
    parser.add_argument('--ema', action='store_true', help='take the averaged weights')
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read files that hold Python objects (they can run any code)',
    )
    args = parser.parse_args(argv)
    if osp.exists(args.dst) and not args.force:
        raise UserError(f'{args.dst} exists: choose another name, or overwrite it with --force')
    check_output(args.dst, [args.src])

    state = unwrap(read_checkpoint(args.src, args.trust_checkpoint), args.ema)
    backbone, rest, layout = split_state_dict(state)
    state_dict = {**{f'backbone.{k}': v.contiguous() for k, v in backbone.items()}, **rest}
    meta = dict(source=osp.basename(args.src), layout=layout.name, licence=layout.licence)
    with whole_output(args.dst) as partial, open(partial, 'wb') as file:
        torch.save(dict(state_dict=state_dict, meta=meta), file)
    print(
        f'{args.src} ({layout.name} layout): {len(backbone)} backbone and {len(rest)} other '
        f'weights of {len(state)} entries -> {args.dst}'
    )
    if layout.licence:
        print(f'note: {layout.licence}')


if __name__ == '__main__':
    run_tool(main)
