"""Draw predictions into images: boxes and masks, label maps, the class of a whole image.

Examples:
    python tools/predict.py configs/mask_gcvit_t_1x.py CHECKPOINT street.jpg --out-dir drawn
    python tools/predict.py ... --out-dir drawn --attention 320,200  # where a pixel looks
"""

import argparse
import os
import os.path as osp
from typing import List, Optional, Tuple

import mmcv
import torch
from mmengine.dataset import pseudo_collate
from rich.progress import track

from gcvit_mm import UserError, cli
from gcvit_mm.checkpoints import load_model
from gcvit_mm.datacheck.images import read_image
from gcvit_mm.inference import Classification, Predictor, dataset_meta
from gcvit_mm.messages import printable
from gcvit_mm.visualization import Placement, attention_maps, find_blocks
from gcvit_mm.visualization import draw as draw_maps


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='images')
    parser.add_argument('--out-dir', required=True, metavar='DIR', help='folder to draw into')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a drawn box (0.3)'
    )
    parser.add_argument(
        '--attention', metavar='X,Y', help='draw where this pixel of the image looks, instead'
    )
    parser.add_argument(
        '--layer',
        nargs='+',
        metavar='NAME',
        help='with --attention: blocks of the backbone, e.g. stages.2.blocks.0; default: the last '
        'one of each kind in each stage, and all with group tokens',
    )
    parser.add_argument('--device', help="e.g. 'cuda:1' or 'cpu'; default: a GPU if there is one")
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read checkpoints that hold Python objects (they can run any code)',
    )
    return parser.parse_args(argv)


def check_images(paths: List[str]) -> None:
    """Check that every image can be read, before the model is built.

    Raises:
        UserError: If one is missing or no image, or two have the same name.
    """
    for path in paths:
        if not osp.isfile(path):
            raise UserError(f'image {path} does not exist: check the path')
        if read_image(path) is None:
            raise UserError(f'image {path} cannot be read: it is no image, or damaged: replace it')
    names = [osp.basename(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f'two images are called {twice}: they would overwrite each other')


def check_outputs(args: argparse.Namespace) -> None:
    """Check that no image would be drawn over one that is read.

    Raises:
        UserError: If one would, or the folder cannot be made.
    """
    try:
        os.makedirs(args.out_dir, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'--out-dir {args.out_dir} cannot be made ({error.strerror}): name another folder'
        ) from error
    for path in args.images:
        out_file = osp.join(
            args.out_dir, (attention_name if args.attention else osp.basename)(path)
        )
        cli.check_output(out_file, [*args.images, args.config, args.checkpoint])


def parse_pixel(args: argparse.Namespace) -> Tuple[int, int]:
    """Read and check --attention, before the model is built.

    Raises:
        UserError: If it is no pixel, one outside an image, or two results have the same name.
    """
    x, _, y = args.attention.partition(',')
    if not (x.strip().isdecimal() and y.strip().isdecimal()):
        raise UserError(f"--attention: '{args.attention}' is no pixel: give X,Y, e.g. 320,200")
    pixel = int(x), int(y)
    for path in args.images:
        height, width = mmcv.imread(path).shape[:2]
        if pixel[0] >= width or pixel[1] >= height:
            raise UserError(
                f'--attention: pixel {args.attention} lies outside {path}: give X within '
                f'0..{width - 1} and Y within 0..{height - 1}'
            )
    names = [attention_name(path) for path in args.images]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f'two images would be drawn into {twice}: give them one by one')
    return pixel


def attention_name(path: str) -> str:
    """Name of the image of attention for an image."""
    return osp.splitext(osp.basename(path))[0] + '_attention.png'


def draw(predictor: Predictor, args: argparse.Namespace) -> None:
    """Predict and draw image by image."""
    for path in track(args.images, description='predicting'):
        (result,) = predictor.predict(path)
        if isinstance(result, Classification):
            print(f'{path}: {printable(result.name)} {result.scores[result.label]:.2f}')
        result.draw(osp.join(args.out_dir, osp.basename(path)), args.score_thr)


def draw_attention(predictor: Predictor, pixel: Tuple[int, int], args: argparse.Namespace) -> None:
    """Draw where a pixel looks, image by image. Only the backbone runs, on the whole image.

    Raises:
        UserError: If the test pipeline cuts the pixel off.
    """
    model = predictor.model
    for path in track(args.images, description='drawing'):
        data = pseudo_collate([predictor.pipeline(dict(img_path=path, img_id=0))])
        data = model.data_preprocessor(data, False)
        placement = Placement.of(data['data_samples'][0].metainfo)
        point = placement.to_image(*pixel)
        if not placement.holds(*point):
            raise UserError(
                f'--attention: the test pipeline of {args.config} cuts pixel {args.attention} of '
                f'{path} off: choose one nearer to the middle'
            )
        maps = attention_maps(model.backbone, data['inputs'], point, args.layer)
        image = mmcv.imread(path, channel_order='rgb')
        with cli.whole_output(osp.join(args.out_dir, attention_name(path))) as out_file:
            draw_maps(image, pixel, maps, placement, out_file)


def main(argv: Optional[List[str]] = None) -> None:
    """Predict."""
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.check_file(args.checkpoint, 'checkpoint')
    check_images(args.images)
    if args.layer and not args.attention:
        raise UserError('--layer: goes with --attention X,Y only')
    pixel = parse_pixel(args) if args.attention else None
    check_outputs(args)
    if cfg.get('default_scope') not in ('mmdet', 'mmseg', 'mmpretrain'):
        raise UserError(f'{args.config} is no config of a detector, segmentor or classifier')
    device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    if device == 'cpu':
        cfg.launcher = 'none'
        cli.use_cpu(cfg)
    model = cli.build_model(cfg)
    if pixel:
        find_blocks(model.backbone, args.layer)
    meta = dataset_meta(cfg, load_model(model, args.checkpoint, False, args.trust_checkpoint))
    predictor = Predictor(cfg, model.to(device), meta)
    if pixel:
        draw_attention(predictor, pixel, args)
    else:
        draw(predictor, args)
    print(f'drew {len(args.images)} images into {args.out_dir}')


if __name__ == '__main__':
    cli.run_tool(main)
