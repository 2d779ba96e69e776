"""``--check`` builds all that a run needs: what would end it in its first minute shows before."""

import re

import pytest
from mmengine.config import Config
from torch import nn

from gcvit_mm import UserError, cli
from gcvit_mm.cli.rehearsal import rehearse_maps
from gcvit_mm.engine.monitoring import check_pooled
from support.running import CLS, DET, FOLDERS, ROOT, SEG, one_line_error, run

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')


@pytest.fixture(autouse=True)
def no_memory(request, monkeypatch):
    """What a run needs takes seconds to predict: it is asked for where something is said of it."""
    if request.node.originalname != 'test_what_is_ready':
        monkeypatch.setattr(cli, 'memory_line', lambda cfg: 'not asked')


@pytest.mark.parametrize(
    ('config', 'said'),
    [
        (DET, 'MaskRCNN on GCViT, N M parameters; 16 images to train on, 4 to evaluate on, 5 cl'),
        (
            SEG,
            'EncoderDecoder on GCViT, N M parameters; 16 images to train on, 4 to evaluate on, 6',
        ),
        (
            CLS,
            'ImageClassifier on GCViT, N M parameters; 5 images to train on, 5 to evaluate on, 5',
        ),
    ],
)
def test_what_is_ready(config, said, shapes, tmp_path):
    """One line says what there is; no work dir is made."""
    words = [config, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[config]]
    last = run('train.py', *words, '--check').splitlines()[-1]
    assert re.sub(r'\d+\.\d\d', 'N', last).startswith(f'ready: {said}')
    assert f' images a process; results go to {tmp_path / "work"}; ' in last
    assert re.search(r'; needs about \d\.\d GB of a GPU$', last)
    assert not (tmp_path / 'work').exists()


def test_epochs(shapes, tmp_path):
    """A run by epochs names them, and what is to be tested its images."""
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{ROOT / CLS}'\ntrain_cfg = dict(_delete_=True, by_epoch=True, max_epochs=3)\n"
    )
    words = [config, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[CLS]]
    assert '5 classes; 3 epochs, 3 iterations of 16 images a process; ' in run(
        'train.py', *words, '--check'
    )
    config.with_suffix('.pth').touch()
    tested = run('test.py', config, config.with_suffix('.pth'), *words[1:], '--check')
    assert re.search(r'M parameters; 5 images to test on, 5 classes; results go to', tested)


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        ('train_dataloader.batchsize=2', 'no argument batchsize: did you mean batch_size?'),
        ('optim_wrapper.lr=1e-4', "unexpected keyword argument 'lr'"),
        ('optim_wrapper.optimizer.type=adamw', 'did you mean AdamW?'),
        ('optim_wrapper.type=adamw', 'wraps no optimizer: set optim_wrapper.optimizer.type=AdamW'),
        ('optim_wrapper.type=OptimWraper', 'did you mean OptimWrapper?'),
        ('model.backbone.arch=tinny', "GCViT has no arch 'tinny'"),
        ('train_cfg.max_epochs=1', '(did you mean max_iters?) cannot be built'),
        ('train_dataloader.dataset.ann_file=annotations', 'annotations is a folder: name a file'),
        ('val_evaluator.metrc=bbox', '(did you mean metric?) cannot be built'),
        ('param_scheduler.0.ennd=3', "unexpected keyword argument 'ennd'"),
        ('model.rpn_head.in_channels=100', 'model.rpn_head does not take maps of [128, 128, 128,'),
        (
            'model.roi_head.bbox_head.in_channels=64',
            'model.roi_head.bbox_head does not take maps of',
        ),
        (
            'model.roi_head.mask_head.in_channels=64',
            'model.roi_head.mask_head does not take maps of',
        ),
        ('default_hooks.logger.intervall=3', '(did you mean interval?) cannot be built'),
    ],
)
def test_what_is_not(option, said, shapes, tmp_path):
    """Each of them passed, and ended the run when it was built."""
    words = [DET, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[DET]]
    assert said in one_line_error('train.py', *words, '--check', '--cfg-options', option)


def test_neck_of_another_backbone(shapes, tmp_path):
    """Whoever wrote it, the maps of a backbone must fit."""
    config = tmp_path / 'config.py'
    backbone = "dict(_delete_=True, type='ResNet', depth=18, norm_cfg=dict(type='BN'))"
    config.write_text(
        f"_base_ = '{ROOT / DET}'\noptim_wrapper = dict(paramwise_cfg=None)\n"
        f'model = dict(backbone={backbone}, neck=dict(in_channels=[64, 128, 250, 512]))\n'
    )
    words = [config, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[DET]]
    assert 'model.neck does not take maps of [64, 128, 256, 512] channels' in one_line_error(
        'train.py', *words, '--check'
    )
    options = ['--cfg-options', 'model.neck.in_channels=[64,128,256,512]']
    assert 'ready: MaskRCNN on ResNet' in run('train.py', *words, '--check', *options)


class Odd(nn.Module):
    """A backbone of one size of images, or a head that is called in another way."""

    prior_generator = None

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, maps):
        if self.kind == 'values':
            return maps[0].sum().item()
        if self.kind == 'arguments':
            return self(maps, maps)
        assert maps.shape[-1] == self.kind, 'images of another size'
        return [maps]


@pytest.mark.parametrize('backbone, head', [(64, 64), (224, 'values'), (224, 'arguments')])
def test_models_of_another_kind_are_let_pass(backbone, head):
    """Where nothing can be known without values or other sizes, nothing is said."""
    model = nn.Module()
    model.backbone, model.bbox_head = Odd(backbone), Odd(head)
    rehearse_maps(model)


def test_one_image_a_step(shapes, tmp_path):
    """UperNet pools to one pixel, of which a batch norm of one image makes nothing."""
    words = [SEG, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[SEG], '--check']
    options = ['--cfg-options', 'train_dataloader.batch_size=1']
    line = one_line_error('train.py', *words, *options)
    assert 'batch_size is 1, but decode_head.psp_modules.0' in line
    assert 'needs two images: train_dataloader.batch_size=2' in line
    checkpoint = tmp_path / 'x.pth'
    checkpoint.touch()
    assert 'ready: ' in run('test.py', SEG, checkpoint, *words[1:], *options)


def test_norms_of_several_processes_take_one_image():
    """SyncBN counts the images of all; a pooled map without a norm is no matter."""
    cfg = Config(dict(train_dataloader=dict(batch_size=1)))
    pool, norm = nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)

    def model(*layers):
        return nn.ModuleList([nn.Sequential(*layers)])

    check_pooled(cfg, model(pool, nn.Conv2d(4, 4, 1), nn.ReLU()))
    check_pooled(cfg, model(nn.AdaptiveAvgPool2d(2), norm))
    check_pooled(cfg, model(pool, nn.SyncBatchNorm(4)), 2)
    for layer, processes in ((nn.SyncBatchNorm(4), 1), (norm, 1), (norm, 2)):
        with pytest.raises(UserError, match='batch_size is 1, but 0 of .* needs two images'):
            check_pooled(cfg, model(pool, nn.Conv2d(4, 4, 1), layer), processes)
    check_pooled(Config(dict(cfg, sync_bn='torch')), model(pool, norm), 2)
    cfg.train_dataloader.batch_size = 2
    check_pooled(cfg, model(pool, norm))


def test_no_workers(shapes, tmp_path):
    """num_workers=0 is enough, though the config keeps its workers alive between epochs."""
    words = [DET, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[DET]]
    options = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']
    assert 'ready: ' in run('train.py', *words, '--check', '--cfg-options', *options)
