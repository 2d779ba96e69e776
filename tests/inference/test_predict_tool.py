"""tools/predict.py: what it finds, writes and says; what it refuses before a model is built."""

import json

import cv2
import mmcv
import numpy as np
import pytest

for package in ('mmdet', 'mmseg', 'mmpretrain'):
    pytest.importorskip(package)

import predict
from mmengine.config import Config
from pycocotools import mask
from pycocotools.coco import COCO

from gcvit_mm import UserError, inference
from gcvit_mm.inference import Classification, Detections, Segmentation, find_inputs
from support.configs import read_config

SCOPES = dict(
    det='mask_gcvit_xxt_shapes', seg='upernet_gcvit_xxt_shapes', cls='cls_gcvit_xxt_shapes'
)


@pytest.fixture
def photos(tmp_path):
    """A folder of two images and other things, and a video of five frames beside it."""
    folder = tmp_path / 'photos'
    (folder / 'sub').mkdir(parents=True)
    for name, value in (('10.png', 60), ('b[1].JPG', 200)):
        cv2.imwrite(str(folder / name), np.full((40, 60, 3), value, np.uint8))
    (folder / 'notes.txt').write_text('no image')
    (folder / 'bad.jpg').write_bytes(b'no image')
    (folder / '.hidden.png').write_bytes((folder / '10.png').read_bytes())
    code = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(tmp_path / 'walk.v1.avi'), code, 12.5, (60, 40))
    for i in range(5):
        writer.write(np.full((40, 60, 3), 40 * i, np.uint8))
    writer.release()
    return folder


class Known:
    """Stands in for a predictor: says what the mean of an image tells."""

    def __init__(self, kind):
        self.kind, self.classes = kind, ('square', 'star')

    def predict(self, images, batch_size):
        return list(self.stream(images, batch_size))

    def stream(self, images, batch_size):
        for image in images:
            yield self.result(image)

    def result(self, image):
        array = image if isinstance(image, np.ndarray) else mmcv.imread(image, channel_order='rgb')
        cfg, size = read_config(SCOPES[self.kind]), array.shape[:2]
        meta = dict(classes=self.classes, palette=[(255, 0, 0), (0, 0, 255)])
        visualizer = dict(cfg.visualizer, scope=cfg.default_scope, dataset_meta=meta)
        path = None if image is array else image
        shared = (path, size, self.classes, visualizer, array)
        label = int(array.mean() > 100)
        if self.kind == 'seg':
            return Segmentation(*shared, np.full(size, label))
        if self.kind == 'cls':
            return Classification(*shared, np.eye(2)[label], label)
        boxes = np.array([[5.0, 5, 30, 30], [1, 2, 4, 8], [1, 1, 9, 9]])
        masks = np.zeros((3, *size), bool)
        masks[:, 5:20, 5:20] = True
        labels, scores = np.array([label, label, 0]), np.array([0.9, 0.6, 0.1])
        return Detections(*shared, boxes, scores, labels, masks)


def run(monkeypatch, kind, *words):
    """Run the tool with a model that is known."""
    monkeypatch.setattr(predict, 'build', lambda source, cfg, args: Known(kind))
    monkeypatch.setattr(predict, 'check_source', lambda source, args: read_config(SCOPES[kind]))
    predict.main(['config.py', 'none.pth', *map(str, words)])


# ------------------------------------------------------------------- what is given
def test_folders_patterns_and_videos(photos):
    """Each is found once, in the order of the words; what is neither is named."""
    one, two, video = photos / '10.png', photos / 'b[1].JPG', photos.parent / 'walk.v1.avi'
    for word, images, videos, skipped in (
        (photos, [one, two], [], ['bad.jpg', 'notes.txt', 'sub']),
        (two, [two], [], []),  # a name that reads as a pattern
        (photos / '*.png', [one], [], []),
        (photos.parent / '**/*.JPG', [two], [], []),
        (photos.parent / '*', [], [video], ['photos']),
    ):
        found = find_inputs([str(word)])
        assert found.images == [str(path) for path in images]
        assert found.videos == [str(path) for path in videos]
        assert [path.split('/')[-1] for path in found.skipped] == skipped
    assert str(find_inputs([str(photos)])) == (
        '2 images, skipped 3 that can be read as neither: bad.jpg, notes.txt, sub'
    )
    assert str(find_inputs([str(one), str(video)])) == '1 image and 1 video'


def test_what_is_nothing(photos):
    """Files that were named must be good, and something must be found."""
    (photos / 'bad.mp4').write_bytes(b'no video')
    (photos.parent / 'empty').mkdir()
    for word, line in (
        ('bad.jpg', r'bad\.jpg cannot be read: it is no image, no video, or damaged'),
        ('bad.mp4', r'bad\.mp4 cannot be read'),
        ('none.png', r'none\.png does not exist'),
        ('*.gif', r'no file matches .*\*\.gif'),
        ('*.txt', r'nothing to predict: 0 images, skipped 1 .*: notes\.txt'),
        ('../empty', 'empty has no image'),
    ):
        with pytest.raises(UserError, match=line):
            find_inputs([str(photos / word)])


def test_lists_of_python_take_patterns(photos):
    """As folders, by the endings of names."""
    assert inference.inputs.list_images(photos / '*0.*') == [str(photos / '10.png')]
    with pytest.raises(UserError, match=r'pattern .*\.txt has no image'):
        inference.inputs.list_images(str(photos / '*.txt'))


# ------------------------------------------------------------------- what is written
def test_coco_results(photos, monkeypatch, tmp_path, capsys):
    """All boxes are written, with the ids of the file; those of low score are not counted."""
    rows = [dict(file_name=f'x/{name}', id=i) for i, name in ((7, '10.png'), (9, 'b[1].JPG'))]
    categories = [dict(name='star', id=44), dict(name='square', id=3)]
    truth = dict(images=rows, categories=categories, annotations=[])
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    run(monkeypatch, 'det', photos, '--json', tmp_path / 'out.json', '--annotations',
        tmp_path / 'truth.json')  # fmt: skip
    printed = capsys.readouterr().out
    assert 'found 2 images, skipped 3' in printed and f'{photos}/10.png: 2 square\n' in printed
    assert f'{photos}/b[1].JPG: 2 star\n' in printed and 'drew' not in printed
    found = COCO(str(tmp_path / 'truth.json')).loadRes(str(tmp_path / 'out.json'))
    assert [a['image_id'] for a in found.anns.values()] == [7] * 3 + [9] * 3
    assert [a['category_id'] for a in found.anns.values()] == [3, 3, 3, 44, 44, 3]
    assert found.anns[2]['bbox'] == [1, 2, 3, 6]
    assert mask.area(found.anns[1]['segmentation']) == 225
    run(monkeypatch, 'det', photos, tmp_path / 'walk.v1.avi', '--json', tmp_path / 'out.json')
    ids = [row['image_id'] for row in json.loads((tmp_path / 'out.json').read_text())][::3]
    assert ids == [10, 'b[1]', *(f'walk.v1_{i:06d}' for i in range(5))]


def test_videos_are_drawn_as_videos(photos, monkeypatch, tmp_path, capsys):
    """As many frames, as fast, the boxes in them; small ones larger."""
    words = [tmp_path / 'walk.v1.avi', '--out-dir', tmp_path / 'out', '--batch-size', 2]
    run(monkeypatch, 'det', *words)
    drawn = mmcv.VideoReader(str(tmp_path / 'out/walk.v1.mp4'))
    assert (len(drawn), drawn.fps, drawn.resolution) == (5, 12.5, (720, 480))
    frames = list(drawn)
    for i, (frame, colour) in enumerate(zip(frames, ['red'] * 3 + ['blue'] * 2)):
        corner, box = frame[-40:, -40:].mean(), frame[120:300, 60:66].mean((0, 1))
        assert corner == pytest.approx(40 * i, abs=8)
        assert (box[2] > box[0]) == (colour == 'red'), i
    assert 'walk.v1.avi: 5 frames' in capsys.readouterr().out


def test_label_maps(photos, monkeypatch, tmp_path):
    """Grey, a byte a pixel, the numbers of the classes; frames too."""
    run(monkeypatch, 'seg', photos, tmp_path / 'walk.v1.avi', '--label-maps', tmp_path / 'maps')
    found = {
        p.stem: cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in (tmp_path / 'maps').iterdir()
    }
    assert set(found) == {'10', 'b[1]', *(f'walk.v1_{i:06d}' for i in range(5))}
    assert {(m.shape, m.dtype) for m in found.values()} == {((40, 60), np.dtype(np.uint8))}
    assert [int(found[name].max()) for name in sorted(found)] == [0, 1, 0, 0, 0, 1, 1]


def test_label_maps_of_many_classes(tmp_path):
    """Two bytes from 257 classes on."""
    labels = np.array([[0, 255, 256, 300]])
    result = Segmentation(None, (1, 4), tuple(map(str, range(301))), {}, None, labels)
    result.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED), labels)


def test_classes(photos, monkeypatch, tmp_path):
    """Scores of all classes, for images of one name in two folders too."""
    (tmp_path / 'more').mkdir()
    cv2.imwrite(str(tmp_path / 'more/10.png'), np.full((4, 4, 3), 255, np.uint8))
    run(monkeypatch, 'cls', photos / '10.png', tmp_path / 'more', '--json', tmp_path / 'out.json')
    assert json.loads((tmp_path / 'out.json').read_text()) == dict(
        classes=['square', 'star'],
        images=[
            dict(image=f'{photos}/10.png', label=0, name='square', scores=[1, 0]),
            dict(image=f'{tmp_path}/more/10.png', label=1, name='star', scores=[0, 1]),
        ],
    )


# ------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ('kind', 'options', 'line'),
    [
        ('det', '', 'give --out-dir, --json or --label-maps'),
        ('det', '--annotations a.json --out-dir o', '--annotations: goes with --json only'),
        ('det', '--groups --json a.json', '--groups: draws only'),
        ('det', '--out-dir o --batch-size 0', '--batch-size 0: give a number from 1 up'),
        ('det', '--out-dir o --groups --batch-size 2', '--groups: goes without --batch-size'),
        ('det', '--out-dir o --groups --amp', '--groups: goes without .* --amp'),
        ('det', '--groups --out-dir o VIDEO', r'--groups: .*walk\.v1\.avi is a video: give images'),
        ('det', '--json o.json --annotations ANN', 'ann.json has no image 10.png'),
        ('det', '--json 10.png', 'would replace'),
        ('det', '--json ANN --annotations ANN', 'would replace'),
        ('det', '--json o.json 010.png', '010.png get the same id'),
        ('det', '--out-dir o walk.v1.mp4 VIDEO', 'two images are called walk.v1.mp4'),
        ('seg', '--label-maps o 10.jpg', 'two images are called 10.png'),
        ('seg', '--label-maps HERE', 'would replace'),
        ('seg', '--label-maps HERE VIDEO', 'holds images: name another folder'),
        ('seg', '--label-maps 10.png', '--label-maps .*10.png cannot be made'),
    ],
)
def test_refused_at_once(kind, options, line, photos, monkeypatch):
    """One line each; images stay as they are."""
    monkeypatch.chdir(photos)
    video = photos.parent / 'walk.v1.avi'
    (photos / 'ann.json').write_text('{"images": [], "categories": []}')
    (photos / '010.png').write_bytes((photos / '10.png').read_bytes())
    cv2.imwrite('10.jpg', np.zeros((4, 4, 3), np.uint8))
    (photos / 'walk.v1.mp4').write_bytes(video.read_bytes())
    names = dict(VIDEO=str(video), ANN='ann.json', HERE='.')
    words = [names.get(word, word) for word in options.split()]
    files = [word for word in words if word.endswith(('.avi', '.mp4', '10.jpg', '010.png'))]
    before = (photos / '10.png').read_bytes()
    with pytest.raises(UserError, match=line):
        run(monkeypatch, kind, '10.png', *files, *(w for w in words if w not in files))
    assert (photos / '10.png').read_bytes() == before


@pytest.mark.parametrize(
    ('scope', 'options', 'line'),
    [
        ('mmseg', '--json a.json', 'gives label maps: give --label-maps DIR'),
        ('mmdet', '--label-maps d', '--label-maps: a.py gives none: give --json FILE'),
        ('mmpretrain', '--json a.json --annotations b.json', 'a.py finds no objects'),
    ],
)
def test_outputs_that_a_model_has_not(scope, options, line, monkeypatch):
    """The right one is named."""
    monkeypatch.setattr(predict.cli, 'load_config', lambda *_: Config(dict(default_scope=scope)))
    monkeypatch.setattr(predict.cli, 'check_file', lambda *_: None)
    args = predict.parse_args(['a.py', 'b.pth', 'c.png', *options.split()])
    with pytest.raises(UserError, match=line):
        predict.check_source(predict.Source('a.py', 'b.pth'), args)


@pytest.mark.parametrize(
    'words', [['--groups'], ['--attention', '1,2'], ['--device', 'cpu'], ['--batch-size', '2']]
)
def test_exported_files_predict_only(words):
    """What needs the model itself is refused, also an option without a value."""
    args = predict.parse_args(['mask.onnx', 'a.jpg', '--out-dir', 'drawn', *words])
    with pytest.raises(UserError, match=f'{words[0]}: goes with checkpoints, not with mask.onnx'):
        predict.check_arguments(args)
