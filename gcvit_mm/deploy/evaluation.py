"""Exported files in the place of models: what OpenMMLab's metrics and visualizers take."""

from typing import Any, List

import torch
from mmengine.model import BaseModel
from mmengine.structures import InstanceData, PixelData

from .predictor import Prediction, Predictor


class FileModel(BaseModel):
    """A model whose predictions come from an exported file.

    Args:
        path: The file.
        engine: What runs it.

    Raises:
        UserError: If it is none of ours.
    """

    def __init__(self, path: str, engine: str = 'onnxruntime') -> None:
        super().__init__()
        self.predictor = Predictor(path, threads=torch.get_num_threads(), engine=engine)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Not there: what a file cannot do is training.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError('an exported file predicts, and nothing else')

    def test_step(self, data: Any) -> List[Any]:
        """Predict for a batch of a data loader, whose pictures are bytes (C, H, W) as BGR."""
        results = []
        for picture, sample in zip(data['inputs'], data['data_samples']):
            image = picture.flip(0).permute(1, 2, 0).numpy()
            meta = sample.metainfo
            if self.predictor.task == 'detector':
                scale = meta.get('scale_factor', (1.0, 1.0))
                found = self.predictor.detect(image, scale, meta['ori_shape'])
            elif self.predictor.task == 'segmentor':
                found = self.predictor.segment(image, meta['ori_shape'])
            else:
                found = self.predictor.classify(image)
            results.append(fill(sample, found))
        return results


def fill(sample: Any, found: Prediction) -> Any:
    """Put a prediction into the data sample of its library, and return that."""
    if found.boxes is not None:
        instances = InstanceData(
            bboxes=torch.from_numpy(found.boxes),
            scores=torch.from_numpy(found.scores),
            labels=torch.from_numpy(found.labels),
        )
        if found.masks is not None:
            instances.masks = torch.from_numpy(found.masks)
        sample.pred_instances = instances
    elif found.label_map is not None:
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(found.label_map)[None].long())
    else:
        sample.set_pred_score(torch.from_numpy(found.probabilities))
        sample.set_pred_label(torch.from_numpy(found.labels))
    return sample
