"""Drawing samples as the network will see them."""

import os
import os.path as osp
import tempfile
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS

from ..messages import described
from ..visualization.room import room_for_text
from .datasets import find_datasets
from .pipeline import check_dataset
from .report import Report

DRAWN = 8


def draw(cfg: Config, loader: str, folder: str, report: Report) -> str:
    """Draw what a loader feeds the network: images after its pipeline, with their labels.

    Args:
        cfg: The config.
        loader: Which loader.
        folder: Where the image goes.
        report: Gets an error where the pipeline fails.

    Returns:
        Path of the image; empty if there is none.
    """
    import matplotlib.figure

    dataset = DATASETS.build(cfg[loader].dataset)
    check_dataset(dataset, training=False)
    visualizer = VISUALIZERS.build(
        {**cfg.visualizer, 'vis_backends': [], 'name': f'check_{loader}'}
    )
    visualizer.dataset_meta = dataset.metainfo
    unresized = any(labels_unresized(node) for node in find_datasets(cfg, loader))
    chosen = spread(range(len(dataset)), DRAWN)
    figure = matplotlib.figure.Figure(figsize=(16, 4 * ((len(chosen) + 3) // 4)))
    with tempfile.TemporaryDirectory() as scratch:
        for i, index in enumerate(chosen):
            try:
                item = dataset[index]
            except Exception as error:  # whatever a pipeline may raise
                report.error(f'{loader}: its pipeline fails: {described(error)}')
                return ''
            file = osp.join(scratch, f'{i}.png')
            draw_one(cfg, visualizer, item, file, unresized)
            axes = figure.add_subplot((len(chosen) + 3) // 4, 4, i + 1)
            axes.imshow(mmcv.imread(file, channel_order='rgb'))
            axes.set_title(osp.basename(str(getattr(item['data_samples'], 'img_path', index))))
            axes.axis('off')
    os.makedirs(folder, exist_ok=True)
    path = osp.join(folder, f'{loader.split("_")[0]}.png')
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    return path


def labels_unresized(node: dict) -> bool:
    """Whether a pipeline reads labels after it resized the image, as those for tests do."""
    steps = [str(step.get('type')) for step in node.get('pipeline') or []]
    loads = [i for i, step in enumerate(steps) if 'LoadAnnotations' in step]
    return bool(loads) and any('Resize' in step for step in steps[: loads[0]])


def draw_one(cfg: Config, visualizer: Any, item: dict, file: str, unresized: bool = False) -> None:
    """Draw one item of a data set with the visualizer of its toolbox.

    Args:
        cfg: The config.
        visualizer: The visualizer.
        item: What the data set gave.
        file: Where the image goes.
        unresized: Its labels are those of the image before the pipeline resized it.
    """
    image = np.ascontiguousarray(np.moveaxis(item['inputs'].numpy(), 0, -1)).astype(np.float64)
    if image.min() < 0 or image.max() <= 1:  # a pipeline that normalises by itself
        image = (image - image.min()) / max(image.max() - image.min(), 1e-9) * 255
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb'):
        image = image[..., ::-1]
    image = np.ascontiguousarray(image.round().clip(0, 255).astype(np.uint8))
    sample = item['data_samples']
    if unresized:
        image = mmcv.imresize(image, sample.ori_shape[1::-1])
    if cfg.default_scope == 'mmpretrain':
        options = room_for_text(*image.shape[:2])
        visualizer.visualize_cls(image, sample, draw_pred=False, out_file=file, **options)
        return
    if cfg.default_scope == 'mmdet' and 'gt_instances' in sample:
        sample.gt_instances = plain(sample.gt_instances)
    visualizer.add_datasample('', image, sample, draw_gt=True, draw_pred=False, out_file=file)


def plain(instances: Any) -> Any:
    """Instances whose boxes are tensors, as the visualizer wants them."""
    if hasattr(instances.get('bboxes'), 'tensor'):
        instances.bboxes = instances.bboxes.tensor
    return instances


def spread(things: Any, count: int) -> list:
    """At most ``count`` things, spread evenly over all."""
    things = list(things)
    if len(things) <= count:
        return things
    return [things[i] for i in np.linspace(0, len(things) - 1, count).astype(int)]
