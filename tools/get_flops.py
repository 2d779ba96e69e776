"""Count parameters and multiply-accumulates of a config, part by part.

Examples:
    python tools/get_flops.py configs/cascade_gcvit_t_3x.py
"""

import argparse
from typing import List, Optional

from rich.console import Console
from rich.table import Table

from gcvit_mm import cli
from gcvit_mm.planning.complexity import (
    INPUT_SIZES,
    build_on_meta,
    count_macs_both_ways,
    count_parameters,
)


def main(argv: Optional[List[str]] = None) -> None:
    """Count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_config_arguments(parser)
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'), help='image; default: as the papers'
    )
    args = parser.parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    size = tuple(args.shape or INPUT_SIZES.get(cfg.get('default_scope'), (224, 224)))
    model = build_on_meta(cfg)
    macs, without = count_macs_both_ways(model, size)
    table = Table(title=f'{args.config} at {size[0]}x{size[1]}')
    table.add_column('part')
    table.add_column('GMACs', justify='right')
    table.add_column('without attention products', justify='right')
    for part, value in macs.items():
        table.add_row(part, f'{value:.1f}', f'{without[part]:.1f}')
    console = Console()
    console.print(table)
    console.print(f'parameters: {count_parameters(model) / 1e6:.2f} M')


if __name__ == '__main__':
    cli.run_tool(main)
