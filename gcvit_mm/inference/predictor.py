"""From the name of a config to predictions."""

import copy
import os
from importlib.util import find_spec
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple, Union

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope

from .. import cli
from ..addresses import config_path
from ..checkpoints import load_model
from ..cli.config import check_types
from ..cli.terminal import import_quietly
from ..datacheck.pipeline import CheckedPipeline
from ..deploy.metadata import dataset_meta
from ..errors import UserError
from .inputs import Image, list_images
from .results import Classification, Detections, Path, Prediction, Predictions, Segmentation

LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')


def test_pipeline(cfg: Config) -> CheckedPipeline:
    """The test pipeline of a config, without what needs annotations."""
    steps = cfg.test_dataloader.dataset.pipeline
    return CheckedPipeline(Compose([step for step in steps if 'Annotations' not in step['type']]))


class Predictor:
    """A model, and the way from an image to what it says.

    It runs the test pipeline of the config and the model's ``test_step``, as mmengine's test loop
    does, and so gives what ``mmdet.apis.inference_detector``, ``mmseg.apis.inference_model`` and
    mmpretrain's inferencer give; but bad images are named, and several models can be used in turn.

    Args:
        cfg: The config.
        model: The model, with its weights, on its device.
        meta: Class names and colours, see
            :func:`gcvit_mm.deploy.metadata.dataset_meta`.

    Attributes:
        cfg: The config.
        model: The model.
        classes: Names of the classes.
    """

    def __init__(self, cfg: Config, model: Any, meta: dict) -> None:
        self.cfg = cfg
        self.model = model.eval()
        self.scope = cfg.default_scope
        with DefaultScope.overwrite_default_scope(self.scope):
            self.pipeline = test_pipeline(cfg)
        self.classes = tuple(meta.get('classes') or ())
        self.visualizer = dict(cfg.visualizer, scope=self.scope, dataset_meta=meta)

    def predict(
        self, images: Union[Image, Iterable[Image]], score_thr: float = 0.0, batch_size: int = 1
    ) -> Predictions:
        """Predict images.

        Args:
            images: A file, a folder (the images in it, by name), a pattern (``data/*.jpg``), an
                array (H, W, 3) of bytes in RGB, or several of these.
            score_thr: Least score of a box that is kept.
            batch_size: Most images that go through the model at once: of those that follow each
                other, the ones that the pipeline resizes to the same size, so that none is padded
                for another.

        Returns:
            A list of :class:`Detections`, :class:`Segmentation` or :class:`Classification`, whose
            boxes, masks and maps are in pixels of the images as given. It holds all masks: see
            :meth:`stream` for many images.

        Raises:
            UserError: If an image is missing, damaged or of the wrong type, or a folder has none.
        """
        return Predictions(self.stream(images, score_thr, batch_size))

    def stream(
        self, images: Union[Image, Iterable[Image]], score_thr: float = 0.0, batch_size: int = 1
    ) -> Iterator[Prediction]:
        """As :meth:`predict`, one by one: what was given is checked at the first."""
        batch: List[Tuple[Image, Dict[str, Any]]] = []
        for number, image in enumerate(list_images(images)):
            with DefaultScope.overwrite_default_scope(self.scope):
                data = self._read(image, number)
            if batch and data['inputs'].shape != batch[0][1]['inputs'].shape:
                yield from self._predict(batch, score_thr)
                batch = []
            batch.append((image, data))
            if len(batch) >= batch_size:
                yield from self._predict(batch, score_thr)
                batch = []
        if batch:
            yield from self._predict(batch, score_thr)

    def prepare(self, image: Image) -> Tuple[torch.Tensor, Dict[str, Any]]:
        """Image (1, C, H, W) as the model gets it, and the ``metainfo`` of its pipeline."""
        with DefaultScope.overwrite_default_scope(self.scope):
            data = pseudo_collate([self._read(image, 0)])
            data = self.model.data_preprocessor(data, False)
        return data['inputs'], data['data_samples'][0].metainfo

    def _predict(
        self, batch: List[Tuple[Image, Dict[str, Any]]], score_thr: float
    ) -> List[Prediction]:
        """Predict images that were read, all of one size for the model."""
        with DefaultScope.overwrite_default_scope(self.scope), torch.no_grad():
            samples = self.model.test_step(pseudo_collate([data for _, data in batch]))
        return [
            self._result(image, sample.cpu(), score_thr)
            for (image, _), sample in zip(batch, samples)
        ]

    def _result(self, image: Image, sample: Any, score_thr: float) -> Prediction:
        """What a model says of an image, in numpy."""
        array = isinstance(image, np.ndarray)
        shared: Dict[str, Any] = dict(
            path=None if array else os.fspath(image),  # type: ignore[arg-type]
            size=tuple(sample.ori_shape[:2]),
            classes=self.classes,
            visualizer=self.visualizer,
            pixels=image if array else None,
        )
        if self.scope == 'mmseg':
            return Segmentation(**shared, label_map=sample.pred_sem_seg.data[0].numpy())
        if self.scope == 'mmpretrain':
            scores = sample.pred_score.numpy()
            return Classification(**shared, scores=scores, label=int(sample.pred_label))
        found = sample.pred_instances
        masks = found.get('masks')
        return Detections(
            **shared,
            boxes=found.bboxes.numpy(),
            scores=found.scores.numpy(),
            labels=found.labels.numpy(),
            masks=None if masks is None else np.asarray(masks, dtype=bool),
        ).above(score_thr)

    def _read(self, image: Image, number: int) -> Any:
        """Run the pipeline; its first step reads what is a file."""
        if not isinstance(image, np.ndarray):
            return self.pipeline(dict(img_path=os.fspath(image), img_id=number))
        size = image.shape[:2]
        data = dict(
            img=mmcv.rgb2bgr(image),
            img_path=f'image {number}',
            img_id=number,
            img_shape=size,
            ori_shape=size,
        )
        return CheckedPipeline(Compose(self.pipeline.transforms[1:]))(data)


def find_device(name: Optional[str] = None) -> torch.device:
    """Find a device to predict on.

    Args:
        name: 'cpu', 'cuda:1' and so on. Default: a GPU if there is one.

    Raises:
        UserError: If there is no such device.
    """
    name = name or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    try:
        return torch.empty(0, device=name).device
    except Exception as error:  # an AssertionError where torch has no CUDA
        count = torch.cuda.device_count()
        gpus = f"'cuda:0' to 'cuda:{count - 1}' are" if count else 'no GPU is found here'
        raise UserError(f"there is no device '{name}' ({gpus}): give 'cpu'") from error


def load(
    config: Union[Path, Config],
    checkpoint: Path,
    device: Optional[str] = None,
    trust_checkpoint: bool = False,
) -> Predictor:
    """Load a model to predict with.

    Args:
        config: Name of a shipped config ('mask_gcvit_t_3x'), path of a config, or a config that was
            read (it is left as it is).
        checkpoint: Path or address of a checkpoint of that model. All its weights must fit, and
            no code in it is run.
        device: 'cpu', 'cuda:1' and so on. Default: a GPU if there is one.
        trust_checkpoint: Also read checkpoints that hold Python objects; they can run any code.

    Raises:
        UserError: If there is no such config or device, or its library is not installed.
        CheckpointError: If the checkpoint cannot be read or does not fit.

    Example::

        det = gcvit_mm.load('mask_gcvit_t_3x', 'epoch_36.pth')
        for result in det.predict(['a.jpg', 'folder']):
            print(result.boxes, result.names)
            rgb = result.draw()
    """
    name = 'the config' if isinstance(config, Config) else os.fspath(config)
    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
        check_types(cfg)
        import_quietly(cfg)
    else:
        cfg = cli.load_config(config_path(name))
    scope = cfg.get('default_scope')
    if scope not in LIBRARIES or not {'model', 'test_dataloader', 'visualizer'} <= set(cfg):
        raise UserError(f'{name} is no config of a detector, segmentor or classifier')
    if find_spec(scope) is None:
        raise UserError(f'{name} needs {scope}: python -m gcvit_mm doctor says how to install it')
    target = find_device(device)
    if target.type != 'cuda':
        cfg.launcher = 'none'
        cli.use_cpu(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        model = cli.build_model(cfg, target.type)
        stored = load_model(model, os.fspath(checkpoint), False, trust_checkpoint)
        return Predictor(cfg, model.to(target), dataset_meta(cfg, stored))
