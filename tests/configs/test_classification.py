"""Classifiers through mmpretrain: sizes, recipes, released weights, data."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope

from gcvit_mm import GCViT, ScalableViT, UserError, cli
from gcvit_mm.checkpoints import load_model
from gcvit_mm.datacheck.folders import check_data
from gcvit_mm.planning.complexity import build_on_meta, count_macs, count_parameters
from support.configs import read_config
from support.gcvit_reference import check_images, nvlabs_classifier_state
from support.running import ROOT, run
from support.scalablevit_reference import released_state

pytest.importorskip('mmpretrain')

SHAPES = 'configs/cls_gcvit_xxt_shapes.py'
CLASSES = ('circle', 'cross', 'square', 'star', 'triangle')
# M parameters with 1000 classes, counted with the released code: GC ViT, ScalableViT.
# GG-Transformer was never released: a prototype's counts.
PARAMETERS = {
    'gcvit_xxt_300e': 12.00,
    'gcvit_xt_300e': 19.98,
    'gcvit_t_300e': 28.22,
    'gcvit_t2_300e': 34.54,
    'gcvit_s_300e': 51.09,
    'gcvit_s2_300e': 68.62,
    'gcvit_b_300e': 90.32,
    'gcvit_l_300e': 202.08,
    'gcvit_l_384': 202.86,
    'gcvit_l_512': 203.80,
    'scalablevit_s_300e': 32.00,
    'scalablevit_b_300e': 81.88,
    'scalablevit_l_300e': 109.29,
    'gg_t_300e': 28.35,
    'gg_s_300e': 49.72,
    'ggdeit_t_300e': 5.740,
    'ggdeit_s_300e': 22.097,
}
# G multiply-accumulates at 224 (or 384, 512), counted as PARAMETERS were.
MACS = {
    'gcvit_xxt_300e': 2.12,
    'gcvit_xt_300e': 2.91,
    'gcvit_t_300e': 4.76,
    'gcvit_t2_300e': 6.18,
    'gcvit_s_300e': 8.53,
    'gcvit_s2_300e': 11.54,
    'gcvit_b_300e': 14.82,
    'gcvit_l_300e': 32.56,
    'gcvit_l_384': 103.94,
    'gcvit_l_512': 202.14,
    'scalablevit_s_300e': 4.27,
    'scalablevit_b_300e': 8.80,
    'scalablevit_l_300e': 14.99,
    'gg_t_300e': 4.55,
    'gg_s_300e': 8.81,
    'ggdeit_t_300e': 1.125,
    'ggdeit_s_300e': 4.341,
}


def config(name):
    """A classification config of this package, also of the ablations."""
    return read_config(name if '/' in name else f'cls_{name}')


# ---------------------------------------------------------------------- configs
@pytest.mark.parametrize('name', PARAMETERS)
def test_size(name):
    """Whole classifiers have the published parameters within 0.01 M, and MACs within 1%."""
    model = build_on_meta(config(name))
    assert count_parameters(model) / 1e6 == pytest.approx(PARAMETERS[name], abs=0.01)
    side = int(name[-3:]) if name.endswith(('384', '512')) else 224
    macs = count_macs(model, (side, side))
    assert macs['total'] == pytest.approx(MACS[name], rel=0.01)


def test_every_leaf_is_counted():
    """No classifier of ImageNet is left out of PARAMETERS, but those of GPViT."""
    leaves = {p.stem[4:] for p in (ROOT / 'configs').glob('cls_*.py')}
    counted = {n for n in leaves if 'gpvit' not in n and 'shapes' not in n}
    assert counted == set(PARAMETERS) == set(MACS)


def rates_of(cfg, epochs, steps=10):
    """Learning rates at the first step of every epoch, as mmengine's schedulers set them."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=cfg.optim_wrapper.optimizer.lr)
    built = []
    for item in cfg.param_scheduler:
        item = dict(item)
        cls = PARAM_SCHEDULERS.get(item.pop('type'))
        if item.pop('convert_to_iter_based', False):
            built.append(cls.build_iter_from_epoch(optimizer, epoch_length=steps, **item))
        else:
            built.append(cls(optimizer, by_epoch=True, **item))
    rates = []
    for step in range(epochs * steps):
        if step % steps == 0:
            rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in built:
            if not scheduler.by_epoch or step % steps == steps - 1:
                scheduler.step()
    return np.array(rates)


SCHEDULES = {
    'gcvit_t_300e': dict(t_initial=310, lr_min=5e-6, warmup_t=20, warmup_lr_init=1e-6),
    'ablations/gcvit_table2_t': dict(t_initial=300, lr_min=5e-6, warmup_t=20, warmup_lr_init=1e-6),
    'ablations/gg_table4a_adaptive': dict(
        t_initial=80, lr_min=1e-5, warmup_t=20, warmup_lr_init=1e-6, warmup_prefix=True
    ),
    'scalablevit_s_300e': dict(t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6),
    'ggdeit_t_300e': dict(t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6),
    'gg_t_300e': dict(
        t_initial=280, lr_min=1e-5, warmup_t=20, warmup_lr_init=1e-6, warmup_prefix=True
    ),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_learning_rates_equal_timm(name):
    """The released trainers use timm's cosine; ours differs by the cosine under the warm-up."""
    scheduler = pytest.importorskip('timm.scheduler')
    cfg = config(name)
    peak = cfg.optim_wrapper.optimizer.lr
    theirs = scheduler.CosineLRScheduler(
        torch.optim.SGD([torch.zeros(1)], lr=peak), **SCHEDULES[name]
    )
    want = np.array([theirs._get_lr(t)[0] for t in range(cfg.train_cfg.max_epochs)])
    got = rates_of(cfg, cfg.train_cfg.max_epochs)
    warmup = SCHEDULES[name]['warmup_t']
    np.testing.assert_allclose(got[:warmup], want[:warmup], atol=0.011 * peak, rtol=0)
    np.testing.assert_allclose(got[warmup:], want[warmup:], atol=1e-3 * peak, rtol=0)
    assert got.max() == pytest.approx(peak, rel=0.011)


@pytest.mark.parametrize('name', ['gcvit_xt_300e', 'gg_t_300e', 'scalablevit_s_300e'])
def test_crop_of_the_test(name):
    """The centre of a short side of 256 is tested; all of the short side for GC ViT-T."""
    steps = config(name).test_dataloader.dataset.pipeline
    assert (steps[1].scale, steps[2].crop_size) == (256, 224)
    steps = config('gcvit_t_300e').test_dataloader.dataset.pipeline
    assert (steps[1].scale, steps[2].crop_size) == (224, 224)


# ---------------------------------------------------------------------- released weights
def convert_and_load(state, name, folder):
    """Convert a file with tools/convert_checkpoint.py and load it into the classifier."""
    torch.save(state, folder / 'released.pth')
    run('convert_checkpoint.py', folder / 'released.pth', folder / 'ours.pth')
    cfg = config(name)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model).eval()
    load_model(model, str(folder / 'ours.pth'))
    return model


RELEASED = {
    'gcvit_xxt_300e': (
        lambda: nvlabs_classifier_state(GCViT('xxtiny')),
        [[2.90563, -0.05652, -0.41510, -0.47052], [3.19974, 0.65259, -0.37059, -0.41255]],
    ),
    'scalablevit_s_300e': (
        lambda: released_state(ScalableViT('small')),
        [[0.35711, 0.34462, 0.73266, -0.04868], [0.09637, 0.77233, 0.17562, 0.65530]],
    ),
}


@pytest.mark.parametrize('name', RELEASED)
@torch.no_grad()
def test_released_classifier(name, tmp_path):
    """A file in the authors' layout gives, converted, the logits of the authors' code."""
    state, want = RELEASED[name]
    model = convert_and_load(dict(model=state()), name, tmp_path)
    logits = model(check_images(224, 224))
    torch.testing.assert_close(logits[:, :4], torch.tensor(want), atol=2e-5, rtol=0)


@torch.no_grad()
def test_timm_classifier(tmp_path):
    """A file of timm gives, converted, timm's logits, one image at a time."""
    timm = pytest.importorskip('timm')
    theirs = timm.create_model('gcvit_xxtiny', pretrained=False).eval()
    for p in theirs.parameters():
        p.normal_(std=0.2 if p.ndim == 1 else 1 / p[0].numel() ** 0.5)
    model = convert_and_load(theirs.state_dict(), 'gcvit_xxt_300e', tmp_path)
    for image in check_images(224, 224):
        want = theirs(image[None])
        assert want.std() > 0.05
        torch.testing.assert_close(model(image[None]), want, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------- data
def folders(root, split, names):
    """Write a split of one empty image a class."""
    for name in names:
        (root / split / name).mkdir(parents=True)
        (root / split / name / 'x.jpg').touch()


def test_data_checks(tmp_path):
    """Missing, flat and mismatching folders are told before anything is built."""
    cfg = config('gcvit_xxt_shapes')
    cli.replace_data_root(cfg, str(tmp_path))
    with pytest.raises(UserError, match=r'train does not exist: .*--data-root'):
        check_data(cfg, 'train_dataloader')
    folders(tmp_path, 'train', CLASSES)
    check_data(cfg, 'train_dataloader')
    (tmp_path / 'val').mkdir()
    (tmp_path / 'val/ILSVRC2012_val_00000001.JPEG').touch()
    with pytest.raises(UserError, match='val has no class folders: sort'):
        check_data(cfg, 'train_dataloader', 'val_dataloader')
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta/val.txt').touch()
    check_data(cfg, 'val_dataloader')

    cfg = config('gcvit_t_300e')
    cli.replace_data_root(cfg, str(tmp_path))
    with pytest.raises(UserError, match='train has 5 class folders, the config has 1000 classes'):
        check_data(cfg, 'train_dataloader')


def test_data_checks_of_custom_data(tmp_path):
    """mmpretrain's CustomDataset takes its classes from the folders, whatever their number."""
    dataset = dict(type='CustomDataset', data_root=str(tmp_path), data_prefix='images')
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    with pytest.raises(UserError, match='images does not exist'):
        check_data(cfg, 'train_dataloader')
    (tmp_path / 'images').mkdir()
    with pytest.raises(UserError, match='images has no class folders'):
        check_data(cfg, 'train_dataloader')
    cfg.train_dataloader.dataset.with_label = False
    check_data(cfg, 'train_dataloader')
    cfg.train_dataloader.dataset.update(with_label=True, data_prefix=dict(img_path='images'))
    folders(tmp_path, 'images', 'ab')
    check_data(cfg, 'train_dataloader')
    cfg.train_dataloader.dataset.metainfo = dict(classes=('a', 'b', 'c'))
    with pytest.raises(UserError, match='images has 2 class folders, the config has 3 classes'):
        check_data(cfg, 'train_dataloader')
