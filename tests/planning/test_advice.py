"""What makes a run fit: which changes, of how many processes, by which options."""

import argparse
import shlex
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from gcvit_mm.cli.arguments import add_config_arguments
from gcvit_mm.planning import advice
from gcvit_mm.planning.advice import smaller_pictures
from gcvit_mm.planning.predict import Prediction, find_load
from gcvit_mm.planning.shadow import Shadow
from gcvit_mm.planning.tracking import Tracker
from support.configs import read_config


class Step:
    """A step that needs what a rule says."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def __call__(self, cfg, load, processes=1):
        self.asked.append(processes)
        owners = {('model', 'activations'): self.rule(cfg, load)}
        return SimpleNamespace(bytes=self.rule(cfg, load), owners=owners), (), 0


def advised(monkeypatch, cfg, rule, room, load, processes=1):
    step = Step(rule)
    test = SimpleNamespace(bytes=0, owners={})
    monkeypatch.setattr(advice, 'predict_training', step)
    monkeypatch.setattr(advice, 'predict_test', lambda cfg, load: (test, 0))
    moment = step(cfg, load)[0]
    found = Prediction(moment, test, (), 0, 0)
    made = advice.advise(cfg, load, found, room, lambda peak: peak, processes)
    return made, step.asked[1:]


@pytest.fixture
def detector(monkeypatch):
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(
                backbone=dict(with_cp=True),
                train_cfg=dict(rpn=dict(assigner=dict(type='mmdet.MaxIoUAssigner'))),
            ),
            optim_wrapper=dict(type='AmpOptimWrapper', dtype='bfloat16'),
            train_dataloader=dict(
                batch_size=4,
                dataset=dict(pipeline=[dict(type='Resize', scale=(1333, 800), keep_ratio=True)]),
            ),
        )
    )
    return cfg, find_load(cfg, objects=200)


def test_advice_is_for_as_many_processes(monkeypatch, detector):
    """DDP's buckets are a part of what does not fit."""
    cfg, load = detector
    made, asked = advised(monkeypatch, cfg, lambda cfg, load: load.batch, 1, load, processes=8)
    assert [change.peak for change in made] == [2, 1]
    assert asked and set(asked) == {8}


@pytest.mark.parametrize(
    ('config', 'present', 'room', 'chosen'),
    [
        ('mask_gcvit_t_1x', False, 90, '[0]'),
        ('mask_gcvit_t_1x', False, 85, '[0,1]'),
        ('mask_gcvit_t_1x', False, 60, 'True'),
        ('mask_gcvit_t_1x', [2], 85, '[0,1,2]'),  # which is kept
        ('retinanet_gpvit_l1_1x', False, 90, '[0,1,2]'),  # a quarter of its layers
        ('mask_gcvit_t_1x', True, 90, None),
    ],
)
def test_no_more_stages_than_needed_are_recomputed(monkeypatch, config, present, room, chosen):
    """The first stages hold most; a run that lacks little pays for them alone."""
    cfg = read_config(config)
    cfg.model.backbone.with_cp, cfg.optim_wrapper.type = present, 'AmpOptimWrapper'

    def rule(cfg, load):
        stages = cfg.model.backbone.with_cp
        count = 12 if 'gpvit' in config else 4
        share = (count if stages is True else len(stages or ())) / count
        return int(100 - 40 * share)

    made, _ = advised(monkeypatch, cfg, rule, room, find_load(cfg, objects=0)._replace(batch=1))
    found = [shlex.split(change.options)[-1] for change in made if change.what == 'with_cp']
    assert found == ([] if chosen is None else [f'model.backbone.with_cp={chosen}'])


def test_other_backbones_recompute_all_or_nothing(detector):
    """mmdet's take no stages."""
    cfg = read_config('mask_gcvit_t_1x')
    resnet = dict(type='mmdet.ResNet', depth=18, _delete_=True)
    cfg.merge_from_dict({'model.backbone': resnet, 'model.neck.in_channels': [64, 128, 256, 512]})
    assert advice.recomputations(cfg) == [True]


def test_crowded_pictures_go_to_the_cpu(monkeypatch, detector):
    """What is assigned on the GPU still, has a quarter of the objects and must fit, too."""
    cfg, load = detector

    def rule(cfg, load):
        least = cfg.model.train_cfg.rpn.assigner.get('gpu_assign_thr', -1)
        return 100 if 0 < least < load.objects else 100 + load.objects

    (change,), _ = advised(monkeypatch, cfg, rule, 150, load)
    assert change.options == '--cfg-options model.train_cfg.rpn.assigner.gpu_assign_thr=50'
    assert change.peak == 150
    cfg.model.train_cfg.rpn.assigner.type = 'HungarianAssigner'  # which has no such setting
    assert advice.assigners(cfg) == []


def test_memory_of_an_assignment_on_the_cpu():
    """The matrix of objects and anchors is not on the GPU; what comes out of it is."""
    pytest.importorskip('mmdet')
    from mmdet.models.task_modules.assigners import MaxIoUAssigner
    from mmengine.structures import InstanceData

    def peak(threshold, gpu=True, objects=300):
        tracker = Tracker(gpu)
        with Shadow(tracker.seen, gpu):
            assigner = MaxIoUAssigner(0.5, 0.5, gpu_assign_thr=threshold)
            anchors = InstanceData(priors=torch.empty(5000, 4) * 1)
            boxes = InstanceData(
                bboxes=torch.empty(objects, 4) * 1, labels=torch.zeros(objects, dtype=torch.int64)
            )
            before = tracker.now
            found = assigner.assign(anchors, boxes)
            assert found.gt_inds.shape == (5000,)
            return tracker.peak.bytes - before

    matrix = 4 * 300 * 5000
    assert peak(-1) > matrix and peak(300) == peak(-1)
    assert 8 * 5000 < peak(299) < matrix / 10
    assert peak(299, gpu=False) > matrix  # on a CPU it is the same memory


def test_smaller_pictures_by_options(detector):
    """What is printed can be pasted into a shell, and makes what was predicted."""
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    for name, size in (('mask_gcvit_t_3x', (600, 1000)), ('upernet_gcvit_t_160k', (384, 384))):
        cfg = read_config(name)
        found = smaller_pictures(cfg, 0.75)
        words = shlex.split(advice.as_options(found))
        cfg.merge_from_dict(parser.parse_args([name, *words]).cfg_options)
        assert find_load(cfg).train == size
    assert cfg.model.data_preprocessor.size == (384, 384)  # which segmentors pad to
    nested = Config(
        dict(d=dict(dataset=dict(pipeline=detector[0].train_dataloader.dataset.pipeline)))
    )
    assert smaller_pictures(
        Config(dict(model={}, train_dataloader=dict(dataset=nested.d))), 0.5
    ) == {'train_dataloader.dataset.dataset.pipeline.0.scale': (666, 400)}


def test_sizes_of_no_pipeline_are_not_changed(monkeypatch, detector):
    """With --size, options that shrink pictures would not do what is predicted."""
    cfg, load = detector
    given = load._replace(train=(500, 500))
    made, _ = advised(monkeypatch, cfg, lambda cfg, load: load.train[0] + load.batch, 0, given)
    assert not any('pipeline' in change.options for change in made)
    made, _ = advised(monkeypatch, cfg, lambda cfg, load: load.train[0] + load.batch, 0, load)
    assert 'pipeline.0.scale=(666,400)' in made[-1].options
