"""Draw predictions into images: boxes and masks, label maps, the class of a whole image.

Examples:
    python tools/predict.py configs/mask_gcvit_t_1x.py CHECKPOINT street.jpg --out-dir drawn
    python tools/predict.py ... --out-dir drawn --attention 320,200  # where a pixel looks
    python tools/predict.py ... --out-dir drawn --groups             # GPViT: groups of tokens
    python tools/predict.py ... --out-dir drawn --features backbone.stages.2.blocks.3
"""

import argparse
import os
import os.path as osp
from typing import Any, List, NamedTuple, Optional, Tuple

import mmcv
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.progress import track
from torch import Tensor

from gcvit_mm import UserError, cli
from gcvit_mm.checkpoints import load_model
from gcvit_mm.datacheck.images import read_image
from gcvit_mm.inference import Classification, Predictor, dataset_meta
from gcvit_mm.messages import printable
from gcvit_mm.visualization import (
    Placement,
    attention_maps,
    draw_features,
    feature_maps,
    find_blocks,
    find_groups,
    find_layers,
    group_maps,
)
from gcvit_mm.visualization import draw as draw_attention

KINDS = ('attention', 'groups', 'features')  # what can be drawn instead of predictions


class Source(NamedTuple):
    """Where a model comes from."""

    config: str
    checkpoint: str
    options: Optional[dict] = None

    @property
    def title(self) -> str:
        """Name of the config, and of the checkpoint with its folder."""
        checkpoint = osp.join(*osp.abspath(self.checkpoint).split(os.sep)[-2:])
        return f'{osp.splitext(osp.basename(self.config))[0]}\n{checkpoint}'


class Model(NamedTuple):
    """A model that is ready, and what prepares images for it."""

    source: Source
    predictor: Predictor

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.predictor.model

    def prepare(self, path: str) -> Tuple[Tensor, Placement]:
        """Image (1, C, H, W) as the model gets it, and where that lies in the file's."""
        data = pseudo_collate([self.predictor.pipeline(dict(img_path=path, img_id=0))])
        data = self.model.data_preprocessor(data, False)
        return data['inputs'], Placement.of(data['data_samples'][0].metainfo)


class Beside(cli.KeyValue):
    """Reads CONFIG CHECKPOINT [KEY=VALUE ...] and adds a source."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Parse the words after the option."""
        if len(values) < 2:
            parser.error(f'{option}: give a config and its checkpoint')
        parsed = argparse.Namespace()
        super().__call__(parser, parsed, values[2:], option)
        source = Source(*values[:2], getattr(parsed, self.dest))
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), source])


# ------------------------------------------------------------------- command line
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
        '--groups',
        nargs='*',
        type=int,
        metavar='NUMBER',
        help='draw to which group token of GPViT each cell gives most, instead; with numbers, of '
        'these groups alone',
    )
    parser.add_argument(
        '--layer',
        nargs='+',
        metavar='NAME',
        help='with --attention and --groups: blocks of the backbone, e.g. stages.2.blocks.0; '
        'default: the last one of each kind in each stage, and all with group tokens',
    )
    parser.add_argument(
        '--features',
        nargs='+',
        metavar='LAYER',
        help='draw the feature maps of layers, instead; as modules of the model are called, e.g. '
        'backbone.stages.2.blocks.3',
    )
    parser.add_argument(
        '--beside',
        nargs='+',
        action=Beside,
        default=[],
        metavar='WORD',
        help='with --features: CONFIG CHECKPOINT [KEY=VALUE ...] of another model, as a row in the '
        'same sheet; can be repeated',
    )
    parser.add_argument('--device', help="e.g. 'cuda:1' or 'cpu'; default: a GPU if there is one")
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read checkpoints that hold Python objects (they can run any code)',
    )
    args = parser.parse_args(argv)
    args.kind = next((kind for kind in KINDS if getattr(args, kind) is not None), '')
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Check what goes together.

    Raises:
        UserError: If some options do not.
    """
    if sum(getattr(args, kind) is not None for kind in KINDS) > 1:
        raise UserError('give one of --attention, --groups, --features')
    if args.layer and args.kind not in ('attention', 'groups'):
        raise UserError('--layer: goes with --attention X,Y or --groups only')
    if args.beside and args.kind != 'features':
        raise UserError('--beside: goes with --features only')


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


def output_name(path: str, kind: str) -> str:
    """Name of what is drawn of an image: that of the image, or e.g. ``street_attention.png``."""
    name = osp.basename(path)
    return f'{osp.splitext(name)[0]}_{kind}.png' if kind else name


def check_outputs(args: argparse.Namespace) -> None:
    """Check that no image would be drawn over one that is read, or over another.

    Raises:
        UserError: If one would, or the folder cannot be made.
    """
    try:
        os.makedirs(args.out_dir, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'--out-dir {args.out_dir} cannot be made ({error.strerror}): name another folder'
        ) from error
    inputs = [*args.images, args.config, args.checkpoint]
    inputs += [file for source in args.beside for file in source[:2]]
    names = [output_name(path, args.kind) for path in args.images]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'two images would be drawn into {name}: give them one by one')
        cli.check_output(osp.join(args.out_dir, name), inputs)


def parse_pixel(args: argparse.Namespace) -> Tuple[int, int]:
    """Read and check --attention, before the model is built.

    Raises:
        UserError: If it is no pixel, or one outside an image.
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
    return pixel


# ------------------------------------------------------------------- building
def check_source(source: Source) -> Config:
    """Read a config and check that its checkpoint is there.

    Raises:
        UserError: If one is missing, or the config is one that cannot be drawn.
    """
    cfg = cli.load_config(source.config, source.options)
    cli.check_file(source.checkpoint, 'checkpoint')
    if cfg.get('default_scope') not in ('mmdet', 'mmseg', 'mmpretrain'):
        raise UserError(f'{source.config} is no config of a detector, segmentor or classifier')
    return cfg


def build(source: Source, cfg: Config, args: argparse.Namespace) -> Model:
    """Build a model, check that it has what is to be drawn, load its weights.

    Raises:
        UserError: If it has not, or the weights do not fit.
    """
    device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    if device == 'cpu':
        cfg.launcher = 'none'
        cli.use_cpu(cfg)
    model: Any = cli.build_model(cfg)
    if args.kind == 'attention':
        find_blocks(model.backbone, args.layer)
    elif args.kind == 'groups':
        find_groups(model.backbone, args.layer, args.groups)
    elif args.kind == 'features':
        try:
            find_layers(model, args.features)
        except UserError as error:
            raise UserError(f'{source.config}: {error}') from error
    meta = dataset_meta(cfg, load_model(model, source.checkpoint, False, args.trust_checkpoint))
    return Model(source, Predictor(cfg, model.to(device), meta))


# ------------------------------------------------------------------- drawing
def draw(predictor: Predictor, args: argparse.Namespace) -> None:
    """Predict and draw image by image."""
    for path in track(args.images, description='predicting'):
        (result,) = predictor.predict(path)
        if isinstance(result, Classification):
            print(f'{path}: {printable(result.name)} {result.scores[result.label]:.2f}')
        result.draw(osp.join(args.out_dir, osp.basename(path)), args.score_thr)


def draw_maps(
    models: List[Model], pixel: Optional[Tuple[int, int]], args: argparse.Namespace
) -> None:
    """Draw where a pixel looks, groups, or feature maps of all models, a sheet an image.

    Only backbones and necks run, on the whole image.
    """
    backbone = models[0].model.backbone
    for path in track(args.images, description='drawing'):
        image = mmcv.imread(path, channel_order='rgb')
        prepared = [model.prepare(path) for model in models]
        inputs, placement = prepared[0]
        with cli.whole_output(osp.join(args.out_dir, output_name(path, args.kind))) as out_file:
            if args.kind == 'features':
                rows = [
                    (m.source.title, place, feature_maps(m.model, x, args.features))
                    for m, (x, place) in zip(models, prepared)
                ]
                draw_features(image, rows, out_file)
                continue
            if pixel:
                point = to_image(pixel, placement, path, args)
                found = attention_maps(backbone, inputs, point, args.layer)
            else:
                found = group_maps(backbone, inputs, args.layer, args.groups)
            draw_attention(image, pixel, found, placement, out_file)


def to_image(
    pixel: Tuple[int, int], placement: Placement, path: str, args: argparse.Namespace
) -> Tuple[float, float]:
    """The pixel in the image that the model gets.

    Raises:
        UserError: If the test pipeline cuts it off.
    """
    point = placement.to_image(*pixel)
    if not placement.holds(*point):
        raise UserError(
            f'--attention: the test pipeline of {args.config} cuts pixel {args.attention} of '
            f'{path} off: choose one nearer to the middle'
        )
    return point


def main(argv: Optional[List[str]] = None) -> None:
    """Predict."""
    args = parse_args(argv)
    check_arguments(args)
    sources = [Source(args.config, args.checkpoint, args.cfg_options), *args.beside]
    configs = [check_source(source) for source in sources]
    check_images(args.images)
    pixel = parse_pixel(args) if args.kind == 'attention' else None
    check_outputs(args)
    models = [build(source, cfg, args) for source, cfg in zip(sources, configs)]
    if args.kind:
        draw_maps(models, pixel, args)
    else:
        draw(models[0].predictor, args)
    print(f'drew {len(args.images)} images into {args.out_dir}')


if __name__ == '__main__':
    cli.run_tool(main)
