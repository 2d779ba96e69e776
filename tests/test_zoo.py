"""Backbones and configs by their names."""

import copy
import re

import pytest
import torch

import gcvit_mm
from gcvit_mm import GCViT, UserError, addresses, backbones, zoo
from gcvit_mm.checkpoints import reading
from support.gcvit_reference import nvlabs_classifier_state
from support.running import ROOT


# ------------------------------------------------------------------- create
def test_every_arch_has_a_name():
    """All archs of all backbones, and nothing else."""
    archs = {
        (name, arch)
        for name in backbones.__all__
        for arch in getattr(getattr(backbones, name), 'arch_zoo', {})
    }
    assert {(cls.__name__, arch) for cls, arch in zoo.backbone_names().values()} == archs
    assert set(zoo.RELEASED) <= set(zoo.backbone_names())


def test_create_passes_arguments_on():
    """Class, arch and arguments are those of the name; without pretrained nothing is loaded."""
    net = gcvit_mm.create('gpvit_adapter_l1', out_strides=(8, 16))
    assert type(net) is gcvit_mm.GPViTAdapter and net.arch == 'L1' and net.out_strides == (8, 16)
    assert net.init_cfg is None and not net.is_init


@pytest.fixture(scope='module')
def released_file(tmp_path_factory):
    """A classifier in the authors' layout."""
    state = nvlabs_classifier_state(GCViT('xxtiny'))
    path = tmp_path_factory.mktemp('released') / 'gcvit_1k_xxtiny.pth.tar'
    torch.save(dict(state_dict=state), path)
    return path, state


def test_pretrained_is_loaded_at_once(released_file, monkeypatch):
    """True asks for the authors' address; a path and an init_cfg are loaded as well."""
    path, state = released_file
    asked = []
    monkeypatch.setattr(reading, 'download', lambda url: asked.append(url) or str(path))
    named = dict(type='Pretrained', checkpoint=str(path))
    for kwargs in (dict(pretrained=True), dict(pretrained=path), dict(init_cfg=named)):
        net = gcvit_mm.create('gcvit_xxtiny', **copy.deepcopy(kwargs), out_indices=(3,))
        assert torch.equal(net.norm3.weight, state['norm.weight']), kwargs
    assert asked == ['https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_1k_xxtiny.pth.tar']


@pytest.mark.parametrize(
    ('name', 'kwargs', 'line'),
    [
        ('gcvit_tiney', {}, r'no backbone gcvit_tiney: did you mean gcvit_tiny\?'),
        ('GPViT-L1', {}, r'no backbone GPViT-L1: did you mean gpvit_l1\?'),
        ('', {}, 'shows all'),
        (None, {}, 'no backbone None'),
        ('scalablevit_base', dict(pretrained=True), r"Google Drive.*create\('scalablevit_base', "),
        ('gpvit_adapter_l2', dict(pretrained=True), 'gpvit_adapter_l2: no address'),
        ('gg_tiny', dict(pretrained=True), 'no weights of GG-Transformer were ever released'),
        ('ggdeit_small', dict(pretrained=True), 'no weights of GG-Transformer'),
        ('gg_tiny', dict(pretrained='none.pth'), r'none\.pth does not exist'),
        ('gg_tiny', dict(pretrained='a.pth', init_cfg=dict(type='Normal')), 'leave one out'),
    ],
)
def test_what_cannot_be_created(name, kwargs, line):
    """One line with the nearest name, or where weights are to be had."""
    with pytest.raises(UserError, match=line) as error:
        gcvit_mm.create(name, **kwargs)
    assert '\n' not in str(error.value)


def test_addresses_are_those_of_the_configs():
    """The configs start from no other files, and each file of a config has a name here."""
    text = ''.join(path.read_text() for path in (ROOT / 'configs').rglob('*.py'))
    found = set(re.findall(r"'(https://[^']*\.pth[^']*)'", text))
    assert len(found) >= 5 and found <= set(zoo.RELEASED.values())


# ------------------------------------------------------------------- list_models
def test_list_models():
    """Everything by default; a pattern and a task choose; it prints as a table."""
    configs = {name for name in addresses.shipped_configs() if not name.endswith('_shapes')}
    some = gcvit_mm.list_models('*_t*')  # each backbone takes its time
    names = [name for name in (*zoo.backbone_names(), *configs) if '_t' in name]
    assert sorted(m.name for m in some) == sorted(names)
    tasks = [gcvit_mm.list_models(task=task) for task in set(zoo.TASKS.values())]
    assert {m.name for models in tasks for m in models} == configs
    (mask,) = gcvit_mm.list_models('MASK_gcvit_t_3x')
    assert (mask.task, mask.data) == ('instance segmentation', 'COCO 2017')
    assert round(mask.parameters / 1e6, 2) == 47.98 and round(mask.flops / 1e9, 1) == 291.3
    assert mask.published == {'box AP': 46.5, 'mask AP': 41.8} and mask.weights is None
    (tiny,) = gcvit_mm.list_models('gcvit_tiny')
    assert tiny.task == 'backbone' and tiny.weights == zoo.RELEASED['gcvit_tiny']
    assert f'{tiny.parameters / 1e6:.2f}' == '27.71'
    lines = repr(gcvit_mm.list_models('*gcvit*', 'object detection')).splitlines()
    assert len(lines) == 3 and re.search(r'dino_gcvit_l.* 223.81  978.7  box AP 58.3$', lines[2])
    assert repr(gcvit_mm.list_models('none')) == 'no model has such a name'
    with pytest.raises(UserError, match="no task 'detection': did you mean object detection"):
        gcvit_mm.list_models(task='detection')
