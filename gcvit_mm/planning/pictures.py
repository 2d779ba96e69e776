"""The largest picture that a pipeline can make, and the most objects that data has in one."""

import functools
import json
import math
import os
import os.path as osp
import re
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..datacheck.foreign.files import IMAGES, Files, image_size
from ..errors import UserError

Size = Tuple[int, int]  # height, width
# Objects in a picture where no annotations are at hand, and bytes of a file that is parsed whole.
ASSUMED_OBJECTS = 100
PARSED = 64 << 20
RESIZES = ('Resize', 'RandomResize', 'RandomChoiceResize')
# Arguments of transforms that say how large pictures become.
SIZES = {
    **dict.fromkeys(RESIZES, ('scale', 'scales', 'scale_factor')),
    **dict.fromkeys(('RandomCrop', 'CenterCrop'), ('crop_size',)),
    **dict.fromkeys(('RandomResizedCrop', 'ResizeEdge'), ('scale',)),
    'Pad': ('size',),
}


class Data(NamedTuple):
    """What is known of the pictures of a data set.

    Attributes:
        sizes: Different heights and widths; empty where they are not known.
        objects: Most objects in a picture.
        pictures: Their number; 0 where it is not known.
        source: Where this was read, or that it is assumed.
    """

    sizes: Sequence[Size]
    objects: int
    pictures: int
    source: str


def inner(dataset: Any) -> List[Any]:
    """Data sets inside of wrappers."""
    if 'datasets' in dataset:
        return [x for child in dataset['datasets'] for x in inner(child)]
    return inner(dataset['dataset']) if 'dataset' in dataset else [dataset]


def pipeline_of(dataset: Any) -> Sequence[Any]:
    """The pipeline of a data set, that of the outermost wrapper which has one last."""
    pipeline = list(inner(dataset)[0].get('pipeline') or [])
    return pipeline + list(dataset.get('pipeline') or []) if 'dataset' in dataset else pipeline


def smaller(dataset: Any, factor: float, path: str) -> Dict[str, Any]:
    """Settings that make all pictures of a data set smaller, by their keys in a config.

    Args:
        dataset: A data set as a config has it.
        factor: That of their sides, below 1.
        path: Key of the data set.
    """
    found = shrunk(dataset.get('pipeline') or (), factor, f'{path}.pipeline')
    if 'dataset' in dataset:
        found.update(smaller(dataset['dataset'], factor, f'{path}.dataset'))
    for i, one in enumerate(dataset.get('datasets') or ()):
        found.update(smaller(one, factor, f'{path}.datasets.{i}'))
    return found


def shrunk(pipeline: Sequence[Any], factor: float, path: str) -> Dict[str, Any]:
    """Settings of :func:`smaller` of one pipeline."""
    found: Dict[str, Any] = {}
    for i, transform in enumerate(pipeline):
        here, name = f'{path}.{i}', str(transform.get('type')).rsplit('.', 1)[-1]
        if name == 'RandomChoice':
            for j, branch in enumerate(transform['transforms']):
                found.update(shrunk(branch, factor, f'{here}.transforms.{j}'))
        if str(transform.get('crop_type')).startswith('relative'):
            continue
        for key in SIZES.get(name, ()):
            if transform.get(key):
                found[f'{here}.{key}'] = times(transform[key], factor)
    return found


def times(value: Any, factor: float) -> Any:
    """A size, or several, smaller; a number with decimals is a factor itself."""
    if isinstance(value, (list, tuple)):
        return type(value)(times(x, factor) for x in value)
    return value * factor if isinstance(value, float) else max(1, round(value * factor))


def read_data(dataset: Any) -> Data:
    """Read the annotations of a COCO data set, where they are."""
    found: List[Data] = []
    for one in inner(dataset):
        path = osp.join(one.get('data_root') or '', one.get('ann_file') or '')
        if path.endswith('.json') and osp.isfile(path):
            found.append(read_coco(path))
    if not found:
        return Data([], ASSUMED_OBJECTS, 0, 'no annotations at hand')
    sizes = sorted({size for data in found for size in data.sizes})
    return Data(
        sizes,
        max(data.objects for data in found),
        sum(data.pictures for data in found),
        ', '.join(data.source for data in found),
    )


@functools.lru_cache(maxsize=None)
def read_coco(path: str) -> Data:
    """Read a file of annotations; of a large one the numbers of images alone.

    Raises:
        UserError: If it is not in COCO format.
    """
    sizes: Dict[Size, None] = {}
    if os.path.getsize(path) <= PARSED:
        try:
            with open(path, encoding='utf-8') as file:
                content = json.load(file)
            number = len(content['images'])
            counts = Counter(x['image_id'] for x in content.get('annotations', ()))
            sizes = {(x['height'], x['width']): None for x in content['images'] if 'height' in x}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{path} is not in COCO format: python -m gcvit_mm check-data says more'
            ) from error
    else:
        with open(path, 'rb') as file:
            text = file.read()
        counts = Counter(x[1] for x in re.finditer(rb'"image_id": ?(\d+)', text))
        number = len(re.findall(rb'"file_name"', text))
    most = max(counts.values(), default=0)
    return Data(list(sizes), most, number, path)


def sizes_on_disk(dataset: Any) -> List[Size]:
    """Different heights and widths of a data set's image files, of those that are there."""
    found: Dict[Size, None] = {}
    for one in inner(dataset):
        prefix = one.get('data_prefix') or one.get('split') or ''
        if not isinstance(prefix, str):
            prefix = prefix.get('img') or prefix.get('img_path') or ''
        files = Files(osp.join(one.get('data_root') or '', prefix))
        for size in map(image_size, files.ending(*IMAGES)):
            if size is not None:
                found[size[0][::-1]] = None
    return list(found)


def largest_of(dataset: Any, data: Data) -> Size:
    """The largest picture that a data set gives; its files are looked at where all else is silent.

    Raises:
        UserError: If it cannot be told.
    """
    pipeline = pipeline_of(dataset)
    unknown = not data.sizes and follow(pipeline, None) is None
    return largest(pipeline, sizes_on_disk(dataset) if unknown else data.sizes)


def largest(pipeline: Sequence[Any], sizes: Sequence[Size] = ()) -> Size:
    """The largest picture (height, width) that a pipeline makes, lying on its side.

    Args:
        pipeline: Transforms as a config has them.
        sizes: Sizes of the pictures, where they are known.

    Raises:
        UserError: If it cannot be told.
    """
    starts: Sequence[Optional[Size]] = list(sizes) or [None]
    made = [size for start in starts for size in [follow(pipeline, start)] if size is not None]
    if not made:
        raise UserError(
            'how large pictures are cannot be told from the pipeline alone, and no data is at '
            'hand: --size HEIGHT WIDTH'
        )
    return max(made, key=lambda size: size[0] * size[1])


def follow(pipeline: Sequence[Any], size: Optional[Size]) -> Optional[Size]:
    """The largest size after all transforms; None where any may come out."""
    free = False  # whether a crop has taken any shape below a size
    for transform in pipeline:
        name = str(transform.get('type')).rsplit('.', 1)[-1]
        if name == 'RandomChoice':
            made = [follow(branch, size) for branch in transform['transforms']]
            known = [x for x in made if x is not None]
            size = max(known, key=lambda x: x[0] * x[1]) if len(known) == len(made) else None
        else:
            resizes = name in RESIZES
            size = step(name, transform, None if free and resizes else size)
            free = transform.get('crop_type') == 'absolute_range' or (free and not resizes)
    return size


def step(name: str, transform: Any, size: Optional[Size]) -> Optional[Size]:
    """The largest size after one transform."""
    if name in RESIZES:
        return resized(transform, size)
    if name == 'RandomResizedCrop':
        return pair(transform['scale'])
    if name in ('RandomCrop', 'CenterCrop'):
        crop = pair(transform['crop_size'])
        if transform.get('crop_type', 'absolute') == 'absolute_range':
            crop = (max(crop), max(crop))
        return crop if size is None else (min(size[0], crop[0]), min(size[1], crop[1]))
    if name == 'ResizeEdge' and size is not None:
        factor = transform['scale'] / min(size)
        return round(size[0] * factor), round(size[1] * factor)
    if name == 'ResizeToMultiple' and size is not None:
        step = transform.get('size_divisor', 32)
        return -(-size[0] // step) * step, -(-size[1] // step) * step
    if name == 'Pad' and transform.get('size'):
        width, height = pair(transform['size'])
        return height, width
    return size


def pair(value: Any) -> Tuple[Any, Any]:
    """Two numbers where one may stand for both."""
    return (value, value) if isinstance(value, (int, float)) else (value[0], value[1])


def resized(transform: Any, size: Optional[Size]) -> Optional[Size]:
    """The largest size after a transform that resizes."""
    scale = transform.get('scale', transform.get('scales'))
    if scale is None:
        factor = pair(transform.get('scale_factor', 1))
        return None if size is None else (round(size[0] * factor[1]), round(size[1] * factor[0]))
    nested = not isinstance(scale, int) and not isinstance(scale[0], int)
    scales = [pair(x) for x in (scale if nested else [scale])]
    most = max((transform.get('ratio_range') or (1, 1))[1], 1)
    keep = transform.get('keep_ratio', (transform.get('resize_kwargs') or {}).get('keep_ratio'))
    made = []
    for long, short in ((max(x) * most, min(x) * most) for x in scales):
        if not keep:
            made.append((math.ceil(short), math.ceil(long)))
            continue
        ratio = short / long if size is None else min(size) / max(size)
        factor = min(long, short / ratio)
        made.append((round(factor * ratio), round(factor)))
    return max(made, key=lambda x: x[0] * x[1])
