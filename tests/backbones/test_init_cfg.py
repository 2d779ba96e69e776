"""Weights that init_cfg names: loaded once where they shall be, and never silently left out."""

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import load_checkpoint

from gcvit_mm import GCViT, GGDeiT, GPViT, GPViTAdapter, UserError, cli
from gcvit_mm.backbones import base
from support.configs import read_config
from support.families import FAMILIES, make

NOWHERE = dict(type='Pretrained', checkpoint='nowhere.pth')


@pytest.fixture
def said(monkeypatch):
    """What backbones say."""
    lines = []
    monkeypatch.setattr(base, 'print_log', lambda text, **_: lines.append(text))
    return lines


@pytest.fixture
def file(tmp_path):
    """A checkpoint of the small GC ViT, by itself."""
    torch.save(dict(state_dict=make('gcvit').state_dict()), tmp_path / 'own.pth')
    return str(tmp_path / 'own.pth')


def image():
    """An image as small as any."""
    return torch.zeros(1, 3, 32, 32)


class Model(BaseModel):
    """A backbone and a head, as libraries build them."""

    def __init__(self, init_cfg):
        super().__init__()
        self.backbone = make('gcvit', init_cfg=init_cfg)
        self.head = torch.nn.Linear(3, 3)

    def forward(self, inputs):
        return self.backbone(inputs)


# ------------------------------------------------------------------- not loaded
@pytest.mark.parametrize('family', FAMILIES)
def test_random_weights_are_said(family, said):
    """A backbone that computes before its weights were loaded says which, once."""
    model = make(family, init_cfg=NOWHERE).eval()
    assert said == []
    for _ in range(2):
        model(image())
    (line,) = said
    assert 'nowhere.pth, which was not loaded: call init_weights()' in line and '\n' not in line
    said.clear()
    make(family, init_cfg=dict(type='Normal', layer='Linear'))(torch.zeros(2, 3, 32, 32))
    assert said == []


def test_nothing_is_said_once_weights_are_there(file, said):
    """By init_weights, torch's loading or mmengine's, of a backbone or of a whole model."""
    own = dict(type='Pretrained', checkpoint=file)
    by_hand = make('gcvit', init_cfg=own)
    by_hand.init_weights()
    by_torch = make('gcvit', init_cfg=NOWHERE)
    by_torch.load_state_dict(by_hand.state_dict())
    trained, tested = Model(own), Model(NOWHERE)
    trained.init_weights()
    torch.save(dict(state_dict=trained.state_dict()), file)
    load_checkpoint(tested, file)
    for model in (by_hand, by_torch, trained, tested):
        model.eval()(image())
    assert said == []


def test_a_head_is_not_its_backbone(said):
    """Loading something else does not count."""
    model = Model(NOWHERE).eval()
    model.load_state_dict({f'head.{k}': v for k, v in model.head.state_dict().items()}, False)
    model(image())
    assert len(said) == 1


def test_building_reads_no_file(said):
    """Neither on the meta device, where it would be in vain, nor before it is asked for."""
    with torch.device('meta'):
        model = GCViT('xxtiny', init_cfg=NOWHERE)
        model(torch.zeros(1, 3, 64, 64))
    assert said == []


def test_a_runner_loads_once(file, monkeypatch):
    """A model that is initialised twice, as FSDP's strategies may, reads its file once."""
    count = []
    load = base.load_pretrained
    monkeypatch.setattr(base, 'load_pretrained', lambda *a, **k: count.append(1) or load(*a, **k))
    model = Model(dict(type='Pretrained', checkpoint=file))
    model.init_weights()
    model.init_weights()
    assert len(count) == 1


# ------------------------------------------------------------------- what it may be
@pytest.mark.parametrize(
    ('wrong', 'line'),
    [
        ('weights.pth', r"init_cfg must be a dict such as .* got 'weights\.pth'"),
        (['weights.pth'], 'init_cfg must be a dict'),
        (dict(checkpoint='weights.pth'), 'init_cfg must be a dict'),
        (3, 'init_cfg must be a dict'),
        (dict(type='Pretrained'), 'needs checkpoint=FILE'),
        (dict(type='Pretrained', checkpoint=None), 'needs checkpoint=FILE'),
    ],
)
def test_what_is_no_init_cfg(wrong, line):
    """One line with what it must be: from the constructor, and before a run."""
    with pytest.raises(TypeError, match=line) as error:
        make('gcvit', init_cfg=wrong)
    assert '\n' not in str(error.value)
    cfg = read_config('mask_gcvit_t_1x')
    cfg.model.backbone.init_cfg = wrong
    with pytest.raises(UserError, match=f'config: model.backbone.*{line}'):
        cli.fetch_pretrained(cfg)


# ------------------------------------------------------------------- what is left out
def test_most_of_a_backbone_left_out(said):
    """Where less than half of the blocks are built, and not where more are."""
    with torch.device('meta'):
        GPViT('L1', out_indices=(0, 1, 2, 3))
        GCViT('tiny', out_indices=(0, 1))
        GPViT('L1', out_indices=(2, 5, 8, 11))
        GPViT('L1', out_indices=(5,))
        GCViT('tiny', out_indices=(0, 1, 2))
        GPViTAdapter('L1')
        GGDeiT('tiny')
    gpvit, gcvit = said
    assert "GPViT(arch='L1'): out_indices=(0, 1, 2, 3) builds 4 of 12 blocks" in gpvit
    assert 'the last stage is 11' in gpvit
    assert "GCViT(arch='tiny'): out_indices=(0, 1) builds 7 of 31 blocks" in gcvit
