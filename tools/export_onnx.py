"""Export a detector, a segmentor, a classifier or a backbone to ONNX, and check it.

Examples:
    python tools/export_onnx.py configs/mask_gcvit_t_3x.py CHECKPOINT mask.onnx --uint8
    python tools/export_onnx.py configs/upernet_gcvit_t_160k.py CHECKPOINT upernet.onnx
    python tools/export_onnx.py configs/mask_gcvit_t_3x.py CHECKPOINT maps.onnx --backbone
    python tools/export_onnx.py configs/mask_gcvit_t_3x.py mask.onnx mask8.onnx --int8 PICTURES
"""

import argparse
import os.path as osp
import tempfile
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from benchmark.measure import interleave, quartiles
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from gcvit_mm import UserError, cli
from gcvit_mm.checkpoints import load_model
from gcvit_mm.deploy import metadata, pictures
from gcvit_mm.deploy.checking import verify_detector
from gcvit_mm.deploy.int8 import inputs_for, quantise
from gcvit_mm.deploy.onnx import ExportedModel, export_onnx, part_to_export, verify_onnx
from gcvit_mm.deploy.predictor import Predictor

ROUNDS = 9  # for the times of --int8


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='checkpoint of the whole model; with --int8 also FILE.onnx'
    )
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
    parser.add_argument(
        '--int8',
        metavar='PICTURES',
        help='compute with 8-bit integers, whose scales are measured on pictures of this folder '
        '(some of those it was trained with); says what that costs on the test set of the config',
    )
    parser.add_argument('--pictures', type=int, default=32, metavar='N', help='how many (32)')
    parser.add_argument('--data-root', help='folder of the test set, instead of that of the config')
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


def chosen_pictures(folder: str, count: int) -> List[str]:
    """Pictures for the scales: so many, from all over a folder."""
    if count < 1:
        raise UserError('--pictures must be at least 1')
    paths = pictures.find(folder)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]


def costs(cfg: Config, plain: str, out: str, paths: List[str]) -> List[str]:
    """What 8 bits cost, as lines of a table."""
    threads = torch.get_num_threads()
    files = {'float32': plain, '8 bits': out}
    rows: Dict[str, List[str]] = {}
    try:
        found = [cli.headlines(cfg, file) for file in files.values()]
        rows = {key: [f'{metrics[key]:.4g}' for metrics in found] for key in found[0]}
        notes = []
    except UserError as error:
        notes = [f'metric not measured: {error}']
    image = next(inputs_for(plain, paths[:1]))
    passes: Dict[str, Callable[[], Any]] = {}
    for name, file in files.items():
        engine = Predictor(file, threads=threads).engine
        passes[name] = lambda engine=engine: engine.run(image)
    times = interleave(passes, ROUNDS, 2, 'cpu')
    rows['ms'] = [f'{quartiles(times[name]).median * 1e3:.1f}' for name in files]
    rows['MB'] = [f'{osp.getsize(file) / 1e6:.1f}' for file in files.values()]
    table = {'': list(files), **rows}
    lines = ['{:10}{:>10}{:>10}'.format(key, *cells) for key, cells in table.items()]
    size = 'x'.join(map(str, image.shape))
    return [*lines, f'ms: {size}, onnxruntime, {threads} threads, median of {ROUNDS}', *notes]


def main(argv: Optional[List[str]] = None) -> None:
    """Export and verify, or give fewer bits to what was exported."""
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.check_file(args.checkpoint, 'checkpoint')
    cli.check_output(args.out, [args.config, args.checkpoint, *(args.images or [])])
    again = cli.is_exported(args.checkpoint)
    if again and not args.int8:
        raise UserError(f'{args.checkpoint} is exported already: name a checkpoint, or give --int8')
    if args.int8 and args.backbone:
        raise UserError('--int8: goes with whole models, whose metric shows what it costs')
    paths = chosen_pictures(args.int8, args.pictures) if args.int8 else []
    if args.data_root:
        cli.replace_data_root(cfg, args.data_root)
    cfg.launcher = 'none'
    cli.use_cpu(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        plain = args.checkpoint if again else osp.join(folder, 'float32.onnx')
        with cli.whole_output(args.out) as partial:
            if not again:
                lines += write(cfg, plain if args.int8 else partial, args)
            if args.int8:
                quantise(plain, partial, paths, torch.get_num_threads())
        if args.int8:
            lines.append(f'{args.out}: 8 bits, scales from {len(paths)} pictures of {args.int8}')
            lines += costs(cfg, plain, args.out, paths)
    print('\n'.join(lines))


def write(cfg: Config, path: str, args: argparse.Namespace) -> List[str]:
    """Export and verify; say what the file takes and gives, and how it agrees with torch."""
    images = [pictures.read(image) for image in args.images or []]
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
    names = export_onnx(model, path, size, channels, args.fixed, args.opset)
    metadata.write(path, facts)
    agreement = check(model, whole, path, args, images)
    shape = f'1x{channels}x{size[0]}x{size[1]}' if args.fixed else f'Bx{channels}xHxW'
    lines = [f'{args.out}: image ({shape}, {facts["input"]}) -> {", ".join(names)}', agreement]
    if facts.get('unknown'):
        lines.append(
            f'the file does not say how to predict: {facts["unknown"]} cannot be described'
        )
    return lines


if __name__ == '__main__':
    cli.run_tool(main)
