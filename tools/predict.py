"""Draw predictions into images: boxes and masks, label maps, the class of a whole image.

Examples:
    python tools/predict.py configs/mask_gcvit_t_1x.py CHECKPOINT street.jpg --out-dir drawn
    python tools/predict.py ... --out-dir drawn --attention 320,200  # where a pixel looks
    python tools/predict.py mask.onnx street.jpg --out-dir drawn  # a file of export_onnx.py
"""

import argparse
import os
import os.path as osp
from functools import partial
from typing import Any, List, Optional, Tuple

import mmcv
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, VISUALIZERS
from rich.progress import track

from gcvit_mm import UserError, cli
from gcvit_mm.checkpoints import load_model
from gcvit_mm.datacheck.images import read_image, room_for_text
from gcvit_mm.datacheck.pipeline import CheckedPipeline
from gcvit_mm.messages import printable
from gcvit_mm.visualization import Placement, attention_maps, find_blocks
from gcvit_mm.visualization import draw as draw_maps


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='*', metavar='IMAGE', help='images')
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
    args = parser.parse_args(argv)
    if cli.is_exported(args.config):  # which needs no config
        args.images = [args.checkpoint, *args.images]
        args.checkpoint = args.config
    if not args.images:
        parser.error('the following arguments are required: IMAGE')
    return args


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


def test_pipeline(cfg: Config) -> Compose:
    """The test pipeline of the config, without what needs annotations."""
    steps = cfg.test_dataloader.dataset.pipeline
    return CheckedPipeline(Compose([step for step in steps if 'Annotations' not in step['type']]))


def dataset_meta(cfg: Config, stored: dict) -> dict:
    """Class names and colours: those of training if the checkpoint has them."""
    if stored.get('dataset_meta'):
        return {key.lower(): value for key, value in stored['dataset_meta'].items()}
    dataset = cfg.test_dataloader.dataset
    meta = dict(getattr(DATASETS.get(dataset.type), 'METAINFO', {}))
    meta.update(dataset.get('metainfo') or {})
    return meta


def draw(cfg: Config, model: Any, meta: dict, args: argparse.Namespace) -> None:
    """Predict and draw image by image."""
    pipeline = test_pipeline(cfg)
    visualizer = VISUALIZERS.build({**cfg.visualizer, 'vis_backends': []})
    visualizer.dataset_meta = meta
    for path in track(args.images, description='predicting'):
        data = pipeline(dict(img_path=path, img_id=0))
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([data]))[0]
        image = mmcv.imread(path, channel_order='rgb')
        options: dict = dict(data_sample=sample.cpu(), draw_gt=False)
        if cfg.default_scope == 'mmpretrain':
            label = int(sample.pred_label)
            name = printable(str(meta['classes'][label] if meta.get('classes') else label))
            print(f'{path}: {name} {sample.pred_score[label]:.2f}')
            options.update(room_for_text(*image.shape[:2]))
            draw = visualizer.visualize_cls
        else:
            if cfg.default_scope == 'mmdet':
                options['pred_score_thr'] = args.score_thr
            draw = partial(visualizer.add_datasample, osp.basename(path))
        with cli.whole_output(osp.join(args.out_dir, osp.basename(path))) as out_file:
            draw(image, out_file=out_file, **options)


def draw_attention(
    cfg: Config, model: Any, pixel: Tuple[int, int], args: argparse.Namespace
) -> None:
    """Draw where a pixel looks, image by image. Only the backbone runs, on the whole image.

    Raises:
        UserError: If the test pipeline cuts the pixel off.
    """
    pipeline = test_pipeline(cfg)
    for path in track(args.images, description='drawing'):
        data = pseudo_collate([pipeline(dict(img_path=path, img_id=0))])
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


def draw_exported(args: argparse.Namespace) -> None:
    """Predict with an exported file, and draw.

    Raises:
        UserError: If something is asked for that it cannot do.
    """
    for option in ('attention', 'layer', 'cfg_options', 'device'):
        if getattr(args, option):
            name = option.replace('_', '-')
            raise UserError(f'--{name}: goes with checkpoints, not with {args.checkpoint}')
    check_images(args.images)
    check_outputs(args)
    draw(*cli.open_exported(args.checkpoint), args)
    print(f'drew {len(args.images)} images into {args.out_dir}')


def main(argv: Optional[List[str]] = None) -> None:
    """Predict."""
    args = parse_args(argv)
    if cli.is_exported(args.checkpoint):
        draw_exported(args)
        return
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
    model = model.to(device).eval()
    if pixel:
        draw_attention(cfg, model, pixel, args)
    else:
        draw(cfg, model, meta, args)
    print(f'drew {len(args.images)} images into {args.out_dir}')


if __name__ == '__main__':
    cli.run_tool(main)
