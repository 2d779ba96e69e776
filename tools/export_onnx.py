"""Export a segmentor, a classifier or a backbone to ONNX, and check it with onnxruntime.

Examples:
    python tools/export_onnx.py configs/upernet_gcvit_t_160k.py CHECKPOINT upernet.onnx
    python tools/export_onnx.py configs/mask_gcvit_t_3x.py CHECKPOINT maps.onnx --backbone
"""

import argparse
from typing import List, Optional

from mmengine.registry import MODELS, init_default_scope

from gcvit_mm import cli
from gcvit_mm.checkpoints import load_model
from gcvit_mm.deploy.onnx import export_onnx, part_to_export, verify_onnx


def main(argv: Optional[List[str]] = None) -> None:
    """Export and verify."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of the whole model')
    parser.add_argument('out', metavar='OUT.onnx', help='file to write')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        default=(224, 224),
        metavar=('H', 'W'),
        help='image to trace with; default 224 224',
    )
    parser.add_argument('--fixed', action='store_true', help='one image of this size only')
    parser.add_argument('--backbone', action='store_true', help='the backbone by itself')
    parser.add_argument('--opset', type=int, default=17, help='version of the operators (17)')
    parser.add_argument('--trust-checkpoint', action='store_true', help='read Python objects too')
    args = parser.parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.check_file(args.checkpoint, 'checkpoint')
    cli.check_output(args.out, [args.config, args.checkpoint])
    cfg.launcher = 'none'
    cli.use_cpu(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    whole = MODELS.build(cfg.model)
    load_model(whole, args.checkpoint, trust_checkpoint=args.trust_checkpoint)
    model = part_to_export(cfg, whole, args.backbone)

    height, width = args.size
    channels = whole.backbone.in_channels
    with cli.whole_output(args.out) as partial:
        names = export_onnx(model, partial, (height, width), channels, args.fixed, args.opset)
        sizes = [(1, height, width)]
        if not args.fixed:
            sizes += [(2, height + 1, width + 37), (3, height // 2 + 11, width // 2 + 6)]
        worst = verify_onnx(model, partial, sizes, channels)
    shape = f'1x{channels}x{height}x{width}' if args.fixed else f'Bx{channels}xHxW'
    print(f'{args.out}: image ({shape}) -> {", ".join(names)}')
    print(
        f'onnxruntime agrees with torch within {worst:.1e} of the largest value, at '
        + ', '.join('x'.join(map(str, size)) for size in sizes)
    )


if __name__ == '__main__':
    cli.run_tool(main)
