"""Paint predictions into pictures: boxes and masks of detectors, label maps of segmentors.

Examples:
    python tools/predict.py configs/mask_gcvit_t_1x.py CHECKPOINT street.jpg --out-dir painted
"""

import argparse
import os
import os.path as osp
from typing import Any, List

import mmcv
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from rich.progress import track

from gcvit_mm import UserError
from gcvit_mm.checkpoints import load_model
from gcvit_mm.engine import launch


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    launch.add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='pictures')
    parser.add_argument('--out-dir', required=True, metavar='DIR', help='folder to paint into')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a painted box (0.3)'
    )
    parser.add_argument('--device', help="e.g. 'cuda:1' or 'cpu'; default: a GPU if there is one")
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read checkpoints that hold Python objects (they can run any code)',
    )
    return parser.parse_args()


def check_images(paths: List[str]) -> None:
    """Check that every picture can be read, before the model is built.

    Raises:
        UserError: If one is missing or no picture, or two have the same name.
    """
    for path in paths:
        if not osp.isfile(path):
            raise UserError(f'image {path} does not exist: check the path')
        if mmcv.imread(path) is None:
            raise UserError(f'image {path} cannot be read: it is no picture, or damaged')
    names = [osp.basename(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f'two images are called {twice}: they would overwrite each other')


def test_pipeline(cfg: Config) -> Compose:
    """The test pipeline of the config, without what needs annotations."""
    steps = cfg.test_dataloader.dataset.pipeline
    return Compose([step for step in steps if 'Annotations' not in step['type']])


def dataset_meta(cfg: Config, stored: dict) -> dict:
    """Class names and colours: those of training if the checkpoint has them."""
    if stored.get('dataset_meta'):
        return {key.lower(): value for key, value in stored['dataset_meta'].items()}
    dataset = cfg.test_dataloader.dataset
    meta = dict(getattr(DATASETS.get(dataset.type), 'METAINFO', {}))
    meta.update(dataset.get('metainfo') or {})
    return meta


def paint(cfg: Config, model: Any, meta: dict, args: argparse.Namespace) -> None:
    """Predict and paint picture by picture."""
    pipeline = test_pipeline(cfg)
    visualizer = VISUALIZERS.build({**cfg.visualizer, 'vis_backends': []})
    visualizer.dataset_meta = meta
    os.makedirs(args.out_dir, exist_ok=True)
    options = dict(pred_score_thr=args.score_thr) if cfg.default_scope == 'mmdet' else {}
    for path in track(args.images, description='predicting'):
        data = pipeline(dict(img_path=path, img_id=0))
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([data]))[0]
        visualizer.add_datasample(
            osp.basename(path),
            mmcv.imread(path, channel_order='rgb'),
            data_sample=sample.cpu(),
            draw_gt=False,
            out_file=osp.join(args.out_dir, osp.basename(path)),
            **options,
        )


def main() -> None:
    """Predict."""
    args = parse_args()
    cfg = launch.load_config(args.config, args.cfg_options)
    launch.check_file(args.checkpoint, 'checkpoint')
    check_images(args.images)
    if cfg.get('default_scope') not in ('mmdet', 'mmseg'):
        raise UserError(f'{args.config} is no config of a detector or segmentor')
    device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    if device == 'cpu':
        cfg.launcher = 'none'
        launch.use_cpu(cfg)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    meta = dataset_meta(cfg, load_model(model, args.checkpoint, False, args.trust_checkpoint))
    paint(cfg, model.to(device).eval(), meta, args)
    print(f'painted {len(args.images)} pictures into {args.out_dir}')


if __name__ == '__main__':
    launch.run_tool(main)
