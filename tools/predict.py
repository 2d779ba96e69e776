"""Predict images and videos, draw and write what was found: boxes, masks, label maps, classes.

Examples:
    python tools/predict.py configs/mask_gcvit_t_1x.py CHECKPOINT street.jpg --out-dir drawn
    python tools/predict.py ... photos 'more/*.jpg' walk.mp4 --out-dir drawn --json found.json
    python tools/predict.py mask.onnx street.jpg --out-dir drawn  # a file of export_onnx.py
    python tools/predict.py ... street.jpg --out-dir drawn --attention 320,200  # where it looks
    python tools/predict.py ... street.jpg --out-dir drawn --groups  # GPViT: groups of tokens
    python tools/predict.py ... street.jpg --out-dir drawn --features backbone.stages.2.blocks.3
"""

import argparse
import os
import os.path as osp
from collections import Counter
from typing import Any, List, NamedTuple, Optional, Tuple

import mmcv
from mmengine.config import Config
from rich.progress import track

from gcvit_mm import UserError, cli, inference
from gcvit_mm.checkpoints import load_model
from gcvit_mm.inference import (
    CocoIds,
    Inputs,
    JsonFile,
    Predictor,
    find_inputs,
    map_name,
    predict_video,
)
from gcvit_mm.messages import printable
from gcvit_mm.visualization import find_blocks, find_groups, find_layers

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
    parser.add_argument(
        'images', nargs='*', metavar='IMAGE', help="images, videos, folders, or e.g. 'data/*.jpg'"
    )
    parser.add_argument('--out-dir', metavar='DIR', help='folder to draw into')
    parser.add_argument(
        '--json',
        metavar='FILE',
        help='write COCO results of a detector, boxes of all scores, or classes with their scores',
    )
    parser.add_argument(
        '--annotations',
        metavar='FILE',
        help='with --json: annotation file in which COCO ids of images and classes are looked up',
    )
    parser.add_argument(
        '--label-maps',
        metavar='DIR',
        help='write label maps of a segmentor: grey PNG files, 0 for the first class',
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a drawn, counted box (0.3)'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        metavar='N',
        help='most images that go through the model at once, of those that follow each other and '
        'are resized to the same size (1); frames of a video are',
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
    cli.add_engine_argument(parser)
    parser.add_argument('--amp', action='store_true', default=None, help='compute in bfloat16')
    parser.add_argument('--device', help="e.g. 'cuda:1' or 'cpu'; default: a GPU if there is one")
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read checkpoints that hold Python objects (they can run any code)',
    )
    args = parser.parse_args(argv)
    args.exported = cli.is_exported(args.config)
    if args.exported:  # which needs no config
        args.images = [args.checkpoint, *args.images]
        args.checkpoint = args.config
    if not args.images:
        parser.error('the following arguments are required: IMAGE')
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
    if args.kind and (args.json or args.label_maps or not args.out_dir):
        raise UserError(f'--{args.kind}: draws only: give --out-dir, no --json and no --label-maps')
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f'--batch-size {args.batch_size}: give a number from 1 up')
    if args.kind and (args.batch_size or args.amp):
        raise UserError(f'--{args.kind}: goes without --batch-size and --amp')
    if args.annotations and not args.json:
        raise UserError('--annotations: goes with --json only')
    cli.check_engine(args.engine, args.checkpoint)
    for option in (*KINDS, 'layer', 'cfg_options', 'device', 'batch_size', 'amp'):
        if args.exported and getattr(args, option) is not None:
            name = option.replace('_', '-')
            raise UserError(f'--{name}: goes with checkpoints, not with {args.checkpoint}')
    if not (args.out_dir or args.json or args.label_maps):
        raise UserError('give --out-dir, --json or --label-maps: nothing would be written')


def output_name(path: str, kind: str) -> str:
    """Name of what is drawn of an image: that of the image, or e.g. ``street_attention.png``."""
    name = osp.basename(path)
    return f'{osp.splitext(name)[0]}_{kind}.png' if kind else name


def video_name(path: str) -> str:
    """Name of what is drawn of a video."""
    return osp.splitext(osp.basename(path))[0] + '.mp4'


def check_outputs(args: argparse.Namespace, inputs: Inputs) -> None:
    """Check that nothing would be written over what is read, or over another output.

    Raises:
        UserError: If it would, or a folder cannot be made.
    """
    if args.kind and inputs.videos:
        raise UserError(f'--{args.kind}: {inputs.videos[0]} is a video: give images')
    outputs = [args.json] if args.json else []
    if args.out_dir:
        cli.make_folder(args.out_dir, '--out-dir ')
        names = [output_name(path, args.kind) for path in inputs.images]
        names += [video_name(path) for path in inputs.videos]
        outputs += [osp.join(args.out_dir, name) for name in names]
    if args.label_maps:
        cli.make_folder(args.label_maps, '--label-maps ')
        folders = [osp.dirname(path) or '.' for path in inputs.images if inputs.videos]
        if any(osp.samefile(folder, args.label_maps) for folder in folders):  # names of frames
            raise UserError(f'--label-maps: {args.label_maps} holds images: name another folder')
        outputs += [osp.join(args.label_maps, map_name(path)) for path in inputs.images]
    path, count = Counter(outputs).most_common(1)[0]
    if count > 1:
        raise UserError(
            f'two images are called {osp.basename(path)}, or would be drawn into it: they would '
            'overwrite each other, give them one by one'
        )
    read = [*inputs.images, *inputs.videos, args.config, args.checkpoint]
    read += [args.annotations] if args.annotations else []
    read += [file for source in args.beside for file in source[:2]]
    for path in outputs:
        cli.check_output(path, read)


def parse_pixel(text: str, images: List[str]) -> Tuple[int, int]:
    """Read and check --attention, before the model is built.

    Raises:
        UserError: If it is no pixel, or one outside an image.
    """
    x, _, y = text.partition(',')
    if not (x.strip().isdecimal() and y.strip().isdecimal()):
        raise UserError(f"--attention: '{text}' is no pixel: give X,Y, e.g. 320,200")
    pixel = int(x), int(y)
    for path in images:
        height, width = mmcv.imread(path).shape[:2]
        if pixel[0] >= width or pixel[1] >= height:
            raise UserError(
                f'--attention: pixel {text} lies outside {path}: give X within '
                f'0..{width - 1} and Y within 0..{height - 1}'
            )
    return pixel


# ------------------------------------------------------------------- building
def check_source(source: Source, args: argparse.Namespace) -> Config:
    """Read a config and check that its checkpoint is there.

    Raises:
        UserError: If one is missing.
    """
    cfg = cli.load_config(source.config, source.options)
    cli.check_file(source.checkpoint, 'checkpoint')
    if cfg.get('default_scope') not in ('mmdet', 'mmseg', 'mmpretrain'):
        raise UserError(f'{source.config} is no config of a detector, segmentor or classifier')
    check_results(source, cfg.default_scope, args)
    return cfg


def check_results(source: Source, scope: str, args: argparse.Namespace) -> None:
    """Check that a model gives what is to be written.

    Raises:
        UserError: If it does not.
    """
    if args.json and scope == 'mmseg':
        raise UserError(f'--json: {source.config} gives label maps: give --label-maps DIR')
    if args.label_maps and scope != 'mmseg':
        raise UserError(f'--label-maps: {source.config} gives none: give --json FILE')
    if args.annotations and scope != 'mmdet':
        raise UserError(f'--annotations: {source.config} finds no objects: leave it out')


def build(source: Source, cfg: Config, args: argparse.Namespace) -> Predictor:
    """Build a model, check that it has what is to be drawn, load its weights.

    Raises:
        UserError: If it has not, or the weights do not fit.
    """
    device = inference.find_device(args.device)
    if device.type == 'cpu':
        cfg.launcher = 'none'
        cli.use_cpu(cfg)
    model: Any = cli.build_model(cfg, device.type)
    if args.kind == 'attention':
        find_blocks(model.backbone, args.layer)
    elif args.kind == 'groups':
        find_groups(model.backbone, args.layer, args.groups)
    elif args.kind == 'features':
        try:
            find_layers(model, args.features)
        except UserError as error:
            raise UserError(f'{source.config}: {error}') from error
    stored = load_model(model, source.checkpoint, False, args.trust_checkpoint)
    if args.amp:
        cli.predict_in_bfloat16(model, device.type)
    return Predictor(cfg, model.to(device), inference.dataset_meta(cfg, stored))


def find_ids(args: argparse.Namespace, inputs: Inputs) -> CocoIds:
    """Read --annotations and look every image up for --json, before the model is built.

    Raises:
        UserError: If one is not there, or two images get the same id.
    """
    if args.annotations and inputs.videos:
        raise UserError(f'--annotations: {inputs.videos[0]} is a video, it has no id: give images')
    ids, seen = CocoIds(args.annotations), {}
    for path in inputs.images:
        other = seen.setdefault(ids.image(path), path)
        if other is not path:
            raise UserError(f'--json: {other} and {path} get the same id: give them one by one')
    return ids


# ------------------------------------------------------------------- predicting
def predict(predictor: Predictor, inputs: Inputs, ids: CocoIds, args: argparse.Namespace) -> None:
    """Predict, and write what is asked for."""
    batch_size = args.batch_size or 1
    ids.categories(predictor.classes)
    found = JsonFile(args.json, ids) if args.json else None

    def keep(name: str, result: Any) -> Any:
        """Write what is no drawing; what is drawn and counted is left."""
        if found:
            found.add(name, result)
        if args.label_maps:
            result.save(osp.join(args.label_maps, map_name(name)))
        return result.above(args.score_thr)

    results = predictor.stream(inputs.images, batch_size=batch_size)
    paths = track(inputs.images, description='predicting', disable=not inputs.images)
    for path, result in zip(paths, results):
        result = keep(path, result)
        print(f'{printable(path)}: {result.summary()}')
        if args.out_dir:
            result.draw(osp.join(args.out_dir, osp.basename(path)), args.score_thr)
    for path in inputs.videos:
        out_file = osp.join(args.out_dir, video_name(path)) if args.out_dir else None
        count = predict_video(predictor, path, out_file, args.score_thr, keep, batch_size)
        print(f'{printable(path)}: {count} frames')
    if found:
        found.write()


def draw_maps(
    models: List[Tuple[str, Predictor]],
    pixel: Optional[Tuple[int, int]],
    images: List[str],
    args: argparse.Namespace,
) -> None:
    """Draw where a pixel looks, groups, or feature maps of all models, a sheet an image."""
    predictor = models[0][1]
    for path in track(images, description='drawing'):
        out_file = osp.join(args.out_dir, output_name(path, args.kind))
        if args.kind == 'features':
            inference.draw_features(models, path, out_file, args.features)
        elif pixel:
            inference.draw_attention(predictor, path, out_file, pixel, args.layer)
        else:
            inference.draw_groups(predictor, path, out_file, args.layer, args.groups)


def main(argv: Optional[List[str]] = None) -> None:
    """Predict."""
    args = parse_args(argv)
    check_arguments(args)
    sources = [Source(args.config, args.checkpoint, args.cfg_options), *args.beside]
    exported = cli.open_exported(args.checkpoint, args.engine) if args.exported else None
    if exported:
        check_results(sources[0], exported[0].default_scope, args)
        configs = [exported[0]]
    else:
        configs = [check_source(source, args) for source in sources]
    inputs = find_inputs(args.images)
    print(f'found {inputs}')
    pixel = parse_pixel(args.attention, inputs.images) if args.kind == 'attention' else None
    check_outputs(args, inputs)
    detector = configs[0].default_scope == 'mmdet'
    ids = find_ids(args, inputs) if args.json and detector else CocoIds()
    if exported:
        models = [(sources[0].title, Predictor(*exported))]
    else:
        models = [(s.title, build(s, cfg, args)) for s, cfg in zip(sources, configs)]
    if args.kind:
        draw_maps(models, pixel, inputs.images, args)
    else:
        predict(models[0][1], inputs, ids, args)
    if args.out_dir:
        counts = dict(images=len(inputs.images), videos=len(inputs.videos))
        drawn = ' and '.join(f'{count} {name}' for name, count in counts.items() if count)
        print(f'drew {drawn} into {args.out_dir}')
    for path in filter(None, (args.json, args.label_maps)):
        print(f'wrote {path}')


if __name__ == '__main__':
    cli.run_tool(main)
