"""Export a detector, a segmentor, a classifier or a backbone to ONNX, and check it.

Examples:
    python tools/export_onnx.py configs/mask_gcvit_t_3x.py CHECKPOINT mask.onnx --uint8
    python tools/export_onnx.py configs/upernet_gcvit_t_160k.py CHECKPOINT upernet.onnx
    python tools/export_onnx.py configs/mask_gcvit_t_3x.py CHECKPOINT maps.onnx --backbone
"""

import argparse
from typing import Any, List, Optional, Tuple

from mmengine.registry import MODELS, init_default_scope

from gcvit_mm import UserError, cli
from gcvit_mm.checkpoints import load_model
from gcvit_mm.deploy import metadata, pictures
from gcvit_mm.deploy.checking import verify_detector
from gcvit_mm.deploy.onnx import ExportedModel, export_onnx, part_to_export, verify_onnx


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of the whole model')
    parser.add_argument('out', metavar='OUT.onnx', help='file to write')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='image to trace with; default 224 224, of detectors 320 320',
    )
    parser.add_argument('--fixed', action='store_true', help='one image of this size only')
    parser.add_argument('--uint8', action='store_true', help='take RGB bytes, and normalise them')
    parser.add_argument('--backbone', action='store_true', help='the backbone by itself')
    parser.add_argument('--opset', type=int, default=17, help='version of the operators (17)')
    parser.add_argument(
        '--images',
        nargs='+',
        metavar='IMAGE',
        help='compare a detector on these, not on drawn ones',
    )
    parser.add_argument('--licence', help='licence of the weights, which the file is to name')
    parser.add_argument('--trust-checkpoint', action='store_true', help='read Python objects too')
    return parser.parse_args(argv)


def check(
    model: ExportedModel, whole: Any, path: str, args: argparse.Namespace, images: List[Any]
) -> str:
    """Compare the file with torch; say how they agree."""
    height, width = args.size
    sizes = [(1, height, width)]
    if model.kind == 'detector' and not args.fixed:
        sizes += [(2, height + 1, width + 37), (1, height * 3 // 4 + 11, width * 3 // 4 + 6)]
    elif not args.fixed:
        sizes += [(2, height + 1, width + 37), (3, height // 2 + 11, width // 2 + 6)]
    at = ', '.join('x'.join(map(str, size)) for size in sizes)
    if model.kind != 'detector':
        worst = verify_onnx(model, path, sizes, whole.backbone.in_channels)
        return f'onnxruntime agrees with torch within {worst:.1e} of the largest value, at {at}'
    found = verify_detector(whole, path, sizes, images)
    if not found.boxes:
        return f'no box to compare, at {at}: name pictures that show something with --images'
    masks = f', masks with IoU {found.iou:.4f} at least' if 'masks' in model.outputs(0) else ''
    near = f'; {found.undecided} more lie on the limit of suppression' if found.undecided else ''
    return (
        f'onnxruntime finds the {found.boxes} boxes of torch, within {found.pixels:.1e} pixels and '
        f'{found.score:.1e} of score{masks}, at {at}{near}'
    )


def main(argv: Optional[List[str]] = None) -> None:
    """Export and verify."""
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.check_file(args.checkpoint, 'checkpoint')
    cli.check_output(args.out, [args.config, args.checkpoint, *(args.images or [])])
    images = [pictures.read(path) for path in args.images or []]
    cfg.launcher = 'none'
    cli.use_cpu(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    whole = MODELS.build(cfg.model)
    stored = load_model(whole, args.checkpoint, trust_checkpoint=args.trust_checkpoint)
    model = part_to_export(cfg, whole, args.backbone, args.uint8)
    if images and model.kind != 'detector':
        raise UserError('--images: goes with detectors only')
    args.size = args.size or ((320, 320) if model.kind == 'detector' else (224, 224))
    size: Tuple[int, int] = tuple(args.size)
    fixed = size if args.fixed else None
    facts = metadata.describe(cfg, model.kind, whole, stored, fixed, args.uint8, args.licence)
    channels = whole.backbone.in_channels
    with cli.whole_output(args.out) as partial:
        names = export_onnx(model, partial, size, channels, args.fixed, args.opset)
        metadata.write(partial, facts)
        agreement = check(model, whole, partial, args, images)
    shape = f'1x{channels}x{size[0]}x{size[1]}' if args.fixed else f'Bx{channels}xHxW'
    print(f'{args.out}: image ({shape}, {facts["input"]}) -> {", ".join(names)}')
    print(agreement)
    if facts.get('unknown'):
        print(f'the file does not say how to predict: {facts["unknown"]} cannot be described')


if __name__ == '__main__':
    cli.run_tool(main)
