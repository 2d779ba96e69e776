"""Predicting the memory of a step: against torch's record of a real one, and its bounds."""

import json
from types import SimpleNamespace

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from PIL import Image
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gcvit_mm import GCViT, UserError
from gcvit_mm.planning import advice, pictures
from gcvit_mm.planning.advice import sharded, with_sharding
from gcvit_mm.planning.cards import GB, find_card
from gcvit_mm.planning.pictures import Data, follow, largest, largest_of, read_data
from gcvit_mm.planning.predict import Prediction, build
from gcvit_mm.planning.shadow import Shadow, numbers
from gcvit_mm.planning.step import follow_parts, give_memory, prime, train_step
from gcvit_mm.planning.tracking import Tracker
from support.classifier import MODEL


class Model(BaseModel):
    """A backbone, and the mean of what it gives for a loss."""

    def __init__(self, with_cp=False):
        super().__init__()
        arch = dict(
            embed_dims=16,
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 4, 8),
            mlp_ratio=2.0,
            layer_scale=None,
            window_size=(3, 3, 3, 3),
            drop_path_rate=0.0,
        )
        self.backbone = GCViT(arch, with_cp=with_cp)

    def forward(self, inputs, mode='loss', **kwargs):
        return dict(loss=sum(x.square().mean() for x in self.backbone(inputs)))


def predicted(model, dtype=None, gpu=False):
    tracker = Tracker(gpu)
    with Shadow(tracker.seen, gpu):
        give_memory(model, 'cpu')
        follow_parts(model, tracker)
        wrapper = OptimWrapper(torch.optim.AdamW(model.parameters()))
        prime(wrapper, model)
        batch = dict(inputs=torch.randn(2, 3, 128, 128))
        train_step(model, wrapper, batch, dtype, tracker)
    return tracker.peak


def measured(model, dtype=None):
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters()))
    prime(wrapper, model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        train_step(model, wrapper, dict(inputs=torch.randn(2, 3, 128, 128)), dtype)
    kept = [x for s in wrapper.optimizer.state.values() for x in s.values()]
    kept += [*model.parameters(), *model.buffers()]
    held = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in kept}
    return sum(held.values()) + most_of(record)


def most_of(record):
    now = most = 0
    for event in sorted(
        (e for e in record.profiler.kineto_results.events() if e.name() == '[memory]'),
        key=lambda e: e.start_ns(),
    ):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(('with_cp', 'dtype'), [(False, None), (True, None), ((0, 1), None)])
def test_peak_is_that_of_a_real_step(with_cp, dtype):
    with torch.device('meta'):
        model = Model(with_cp)
    found = predicted(model, dtype)
    assert found.bytes == pytest.approx(measured(Model(with_cp), dtype), rel=0.07)
    assert found.bytes == sum(found.owners.values())
    assert {part for part, _ in found.owners} >= {'backbone'}


@pytest.mark.parametrize('conv', [nn.Conv2d(48, 64, 3), nn.ConvTranspose2d(48, 64, 2, 2)], ids=str)
@torch.no_grad()
def test_layouts_of_convolutions(conv):
    """On a CPU oneDNN copies maps that are not channels-last into its layout, and back."""

    def run(layout=torch.contiguous_format):
        x = torch.empty(4, 48, 40, 40, memory_format=layout)
        return x, conv(x)

    def predict(gpu, layout=torch.contiguous_format):
        tracker = Tracker()
        with Shadow(tracker.seen, gpu):
            run(layout)
        return tracker.peak.bytes

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = run()
    assert predict(gpu=False) == pytest.approx(most_of(record), rel=0.02)
    plain = sum(x.numel() * 4 for x in kept)
    assert predict(gpu=True) == predict(gpu=False, layout=torch.channels_last) == plain


def test_what_a_gpu_runs_keeps_no_attention_weights():
    """Tensors claim a GPU that is not there; checkpointing and attention go its ways."""
    with torch.device('meta'):
        plain, recomputed = Model(), Model(with_cp=True)
    assert predicted(recomputed, gpu=True).bytes < predicted(plain, gpu=True).bytes
    with Shadow(gpu=True):
        assert torch.zeros(1).is_cuda
        assert torch.zeros(1, device='cuda').is_cuda
    assert not torch.zeros(1).is_cuda


def test_bounds_of_what_depends_on_numbers():
    from torchvision.ops import nms

    with Shadow():
        unknown = torch.rand(200, 4) * 0 + torch.empty(10000)[:200, None]
        assert numbers(unknown) is None
        assert len(nms(unknown, unknown[:, 0], 0.5)) == 200
        assert (unknown[:, 0] > 0).nonzero().shape == (200, 1)
        assert unknown[unknown > 0].shape == (800,)
        assert unknown.unique().numel() == 800


def test_small_numbers_are_carried():
    with Shadow():
        sizes = torch.tensor([[3, 4], [5, 6]])
        assert sizes.prod(1).sum().item() == 42
        assert sizes[sizes > 3].tolist() == [4, 5, 6]
        assert (sizes == 4).nonzero().shape == (1, 2)
        sizes[0, 0] = torch.empty(5000, dtype=torch.int64)[0]
        assert numbers(sizes) is None


def test_no_memory_is_left_behind():
    tracker = Tracker()
    with Shadow(tracker.seen):
        x = torch.zeros(1000)
        y = x.view(10, 100)
        assert tracker.now == 4000
        del x
        assert tracker.now == 4000
        del y
    assert (tracker.now, tracker.peak.bytes) == (0, 4000)


def test_largest_picture():
    crop = dict(type='RandomCrop', crop_size=(384, 600), crop_type='absolute_range')
    resize = dict(type='RandomChoiceResize', scales=[(480, 1333), (800, 1333)], keep_ratio=True)
    assert largest([crop, resize]) == (800, 1333)
    assert largest([resize], [(480, 640), (60, 80)]) == (800, 1067)
    branches = dict(type='RandomChoice', transforms=[[resize], [crop]])
    assert largest([branches]) == (800, 1333)
    half = dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True)
    assert largest([half, dict(type='RandomCrop', crop_size=(512, 512))]) == (512, 512)
    assert follow([dict(type='Resize', scale_factor=1.0, keep_ratio=True)], None) is None
    with pytest.raises(UserError, match='--size'):
        largest([dict(type='LoadImageFromFile')])


def test_sizes_of_image_files(tmp_path):
    """Files are looked at where neither pipeline nor annotations say how large pictures are."""
    for name, (width, height) in dict(a=(50, 30), b=(60, 90)).items():
        (tmp_path / 'images' / name).mkdir(parents=True)
        Image.new('RGB', (width, height)).save(tmp_path / 'images' / name / 'x.JPG', 'JPEG')
    (tmp_path / 'images' / 'broken.jpg').write_text('')
    root, none = str(tmp_path), Data([], 0, 0, '')
    for prefix in (dict(data_prefix=dict(img_path='images')), dict(split='images')):
        dataset = Config(dict(data_root=root, pipeline=[dict(type='LoadImageFromFile')], **prefix))
        assert largest_of(dataset, none) == (90, 60)
        assert largest_of(dataset, none._replace(sizes=[(7, 8)])) == (7, 8)
        dataset.pipeline.append(dict(type='Resize', scale=(20, 10)))
        assert largest_of(dataset, none) == (10, 20)
    with pytest.raises(UserError, match='no data is at hand: --size HEIGHT WIDTH'):
        largest_of(Config(dict(data_root=f'{root}/nowhere', pipeline=[])), none)


@pytest.mark.parametrize('parsed', [0, 1 << 20])
def test_objects_of_annotations(tmp_path, monkeypatch, parsed):
    monkeypatch.setattr(pictures, 'PARSED', parsed)
    images = [dict(id=i, file_name=f'{i}.jpg', height=40, width=60) for i in range(3)]
    boxes = [dict(id=i, image_id=i % 2, bbox=[0, 0, 1, 1]) for i in range(7)]
    text = json.dumps(dict(images=images, annotations=boxes))
    (tmp_path / 'a.json').write_text(text)
    dataset = Config(dict(d=dict(type='Repeat', dataset=dict(ann_file=str(tmp_path / 'a.json'))))).d
    data = read_data(dataset)
    assert (data.objects, data.pictures) == (4, 3)
    assert list(data.sizes) == ([(40, 60)] if parsed else [])


def test_cards():
    assert find_card('24GB').memory == 24 * GB
    assert find_card('H100').tflops_half > find_card('h100').tflops
    with pytest.raises(UserError, match='did you mean a100-40'):
        find_card('a100-4')
    for wrong in ('0GB', '-1GB', 'GB'):
        with pytest.raises(UserError, match='24GB'):
            find_card(wrong)


CLASSIFIER = (
    MODEL
    + """
dataset = dict(type='ImageNet', pipeline=[dict(type='RandomResizedCrop', scale=64)])
train_dataloader = dict(batch_size=2, dataset=dataset)
val_dataloader = dict(batch_size=8, dataset=dataset)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(max_iters=1000)
"""
)


def test_command(tmp_path, capsys, monkeypatch):
    """A run that does not fit is told what makes it fit, in one object."""
    pytest.importorskip('mmpretrain')
    from gcvit_mm.cli import plan
    from gcvit_mm.planning import cards

    monkeypatch.setattr(cards, 'CONTEXT', 0)
    monkeypatch.setattr(advice, 'recomputations', lambda cfg: [True])  # test_advice.py has stages
    (tmp_path / 'c.py').write_text(CLASSIFIER)
    plan.main([str(tmp_path / 'c.py'), '--gpu', '0.005GB', '--json'])
    found = json.loads(capsys.readouterr().out)
    assert found['load']['train'] == [64, 64] and found['load']['batch'] == 2
    assert found['load']['objects'] == 0  # a classifier has none
    parts = found['train']['parts']
    assert sum(sum(x.values()) for x in parts.values()) == found['train']['peak_bytes']
    assert not found['fits']
    peaks = [change['peak'] for change in found['advice']]
    assert peaks[0] <= found['needed_bytes'] and max(peaks[1:]) < peaks[0]
    single = '--cfg-options val_dataloader.batch_size=1'  # the evaluation alone is too large
    assert [change['options'] for change in found['advice'][:2]] == [single, f'--amp {single}']
    # weights need most by now: smaller batches and smaller pictures would bring nothing
    assert found['advice'][-2]['options'].endswith(' model.backbone.with_cp=True')
    for useless in ('train_dataloader', 'pipeline'):
        assert not any(useless in change['options'] for change in found['advice'])


def test_processes_and_plot(tmp_path, capsys):
    """DDP keeps gradients in buckets of its own; the picture is one."""
    pytest.importorskip('mmpretrain')
    from gcvit_mm.cli import plan

    (tmp_path / 'c.py').write_text(CLASSIFIER)
    found = []
    for words in (['--gpus', '1'], ['--gpus', '4', '--plot', str(tmp_path / 'plan.png')]):
        plan.main([str(tmp_path / 'c.py'), '--json', *words])
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    one, four = (x['train']['parts'].get('model', {}) for x in found)
    kept = build(Config.fromfile(tmp_path / 'c.py'))
    size = sum(4 * p.numel() for p in kept.parameters())
    assert 'DDP buckets' not in one and four['DDP buckets'] == size
    assert found[1]['train']['peak_bytes'] >= found[0]['train']['peak_bytes'] + size
    assert cv2.imread(str(tmp_path / 'plan.png')).std() > 10


def test_sharding(tmp_path):
    """By hand: a share of weights, gradients and states, all of the rest, and what is gathered."""
    pytest.importorskip('mmpretrain')
    (tmp_path / 'c.py').write_text(CLASSIFIER)
    model = build(Config.fromfile(tmp_path / 'c.py'))
    blocks = [
        sum(4 * p.numel() for p in block.parameters())
        for block in model.modules()
        if type(block).__name__ == 'GCViTBlock'
    ]
    whole = sum(4 * p.numel() for p in model.parameters())
    assert len(blocks) == 4 and sum(blocks) < whole
    owners = {('backbone', cause): 8000 for cause in ('weights', 'gradients', 'optimizer state')}
    owners['backbone', 'activations'] = 1000
    moment, test = SimpleNamespace(owners=owners, bytes=25000), SimpleNamespace(bytes=10)
    prediction = Prediction(moment, test, (), 0, 0)
    gathered = 2 * (whole - sum(blocks)) + 2 * sum(sorted(blocks)[-2:])
    assert sharded(model, prediction, 4) == 3 * 2000 + 1000 + gathered
    cfg = Config.fromfile(tmp_path / 'c.py')
    (change,) = with_sharding(cfg, prediction, 3 * 2000 + 1000 + gathered, lambda peak: peak)
    assert change.what == 'FSDP over 4 GPUs'  # two are not enough
    assert with_sharding(cfg, prediction, gathered, lambda peak: peak) == []
    owners['model', 'DDP buckets'] = 8000  # which FSDP has not
    assert sharded(model, prediction, 4) == 3 * 2000 + 1000 + gathered
    large = prediction._replace(test=SimpleNamespace(bytes=10 * whole))  # which is not divided
    assert sharded(model, large, 4) == 10 * whole + 2000


def test_command_ends_in_one_line(tmp_path, capsys):
    from gcvit_mm.cli import plan

    (tmp_path / 'c.py').write_text(CLASSIFIER.replace("'ImageClassifier'", "'NoSuchModel'"))
    with pytest.raises(SystemExit):
        plan.main([str(tmp_path / 'c.py'), '--gpu', 'h1000'])
    assert capsys.readouterr().err.count('\n') == 1
