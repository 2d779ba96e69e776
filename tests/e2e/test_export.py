"""Exported models give what eager ones give, at sizes that were not traced."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from gcvit_mm import UserError, cli
from gcvit_mm.deploy import Predictor
from gcvit_mm.deploy.onnx import (
    AdaptivePool,
    ExportedModel,
    export_onnx,
    part_to_export,
    verify_onnx,
)
from gcvit_mm.layers import crop, halving_max_pool, known_equal, pad_image, resize_cubic
from support.families import FAMILIES, FEW, make, shallow
from support.running import ROOT, run

# (batch, height, width): odd sides, sides that divide into all windows, maps of one token
SIZES = [(2, 96, 128), (1, 75, 51), (3, 224, 160), (1, 33, 250)]
SEGMENTORS = {
    'gcvit': 'upernet_gcvit_xxt_shapes',
    'scalablevit': 'upernet_scalablevit_s_160k',
    'gg': 'upernet_gg_t_160k',
    'gpvit': 'upernet_gpvit_l1_160k',
}
needs_onnx = pytest.mark.skipif(
    not all(find_spec(name) for name in ('onnx', 'onnxruntime')),
    reason='needs onnx and onnxruntime',
)


@needs_onnx
@pytest.mark.parametrize('family', FAMILIES)
def test_onnx_of_backbones(family, tmp_path):
    """One file serves any batch and any size."""
    model = ExportedModel(shallow(family), 'backbone')
    path = str(tmp_path / 'maps.onnx')
    names = export_onnx(model, path, (97, 131))
    assert names == [f'map{i}' for i in range(len(model.model.out_channels))]
    assert verify_onnx(model, path, SIZES) < 1e-4


def segmentor(family):
    """The UperNet of a config, small."""
    cfg = Config.fromfile(ROOT / f'configs/{SEGMENTORS[family]}.py')
    cfg.launcher = 'none'
    cli.use_cpu(cfg)
    few = {} if family == 'gpvit' else FEW[family]  # whose maps are those of four blocks
    arch = {**FAMILIES[family][1], **few, 'drop_path_rate': 0.0}
    cfg.model.backbone.arch = arch
    cfg.model.backbone.init_cfg = None
    if family == 'gpvit':
        cfg.model.backbone.out_indices = (0, 1, 2, 3)
    small = make(family, **(dict(out_indices=(0, 1, 2, 3)) if family == 'gpvit' else {}))
    cfg.model.decode_head.update(in_channels=list(small.out_channels), channels=16)
    head = cfg.model.auxiliary_head
    head.update(in_channels=small.out_channels[head.in_index], channels=8)
    init_default_scope('mmseg')
    return cfg, MODELS.build(cfg.model).eval()


@needs_onnx
@pytest.mark.parametrize('family', SEGMENTORS)
def test_onnx_of_segmentors(family, tmp_path):
    """Backbone and decode head together, as mmseg itself computes them."""
    cfg, whole = segmentor(family)
    image = torch.randn(2, 3, 90, 121)
    with torch.no_grad():
        wanted = whole(image, mode='tensor')
        model = part_to_export(cfg, whole)
        (logits,) = model(image)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    path = str(tmp_path / 'logits.onnx')
    assert export_onnx(model, path, (97, 131)) == ['logits']
    assert verify_onnx(model, path, SIZES[:3]) < 1e-4


@needs_onnx
def test_a_fixed_file_takes_its_size_only(tmp_path):
    """--fixed ties the graph to one size, and says so at another."""
    model = ExportedModel(shallow('gcvit'), 'backbone')
    path = str(tmp_path / 'fixed.onnx')
    export_onnx(model, path, (64, 96), fixed=True)
    assert verify_onnx(model, path, [(1, 64, 96)]) < 1e-4
    with pytest.raises(UserError, match='2x3x64x96: onnxruntime cannot run it'):
        verify_onnx(model, path, [(2, 64, 96)])


@needs_onnx
def test_verification_finds_other_weights(tmp_path):
    """A file that computes something else is refused."""
    model = ExportedModel(make('gg_deit'), 'backbone')
    path = str(tmp_path / 'maps.onnx')
    export_onnx(model, path, (64, 64))
    with torch.no_grad():
        model.model.norm0.bias.add_(0.01)
    with pytest.raises(UserError, match='map0 differs from torch by .*do not use this file'):
        verify_onnx(model, path, [(1, 64, 64)])
    (tmp_path / 'broken.onnx').write_bytes(b'no graph')
    with pytest.raises(UserError, match='broken.onnx: onnxruntime cannot read it'):
        verify_onnx(model, str(tmp_path / 'broken.onnx'), [(1, 64, 64)])


@needs_onnx
def test_the_tool(tmp_path):
    """Config and checkpoint become a verified file: a whole model, and the backbone of one."""
    config = 'configs/cls_gcvit_xxt_shapes.py'
    model = MODELS.build(load(config).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    out = tmp_path / 'model.onnx'
    printed = run('export_onnx.py', config, tmp_path / 'model.pth', out, '--size', 64, 64)
    assert out.is_file() and 'onnxruntime agrees with torch' in printed and 'logits' in printed

    config = 'configs/mask_gcvit_xxt_shapes.py'
    model = MODELS.build(load(config).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    options = ['--backbone', '--size', 64, 64, '--fixed', '--uint8']
    printed = run(
        'export_onnx.py', config, tmp_path / 'model.pth', tmp_path / 'mask.onnx', *options
    )
    assert 'image (1x3x64x64, uint8) -> map0, map1, map2, map3' in printed
    assert sorted(p.name for p in tmp_path.glob('*.onnx*')) == ['mask.onnx', 'model.onnx']
    with pytest.raises(UserError, match='mask.onnx is a backbone, which predicts nothing'):
        Predictor(tmp_path / 'mask.onnx')


def load(config):
    """A config without SyncBN, its scope set."""
    cfg = Config.fromfile(ROOT / config)
    cfg.launcher = 'none'
    cli.use_cpu(cfg)
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('family', ['gcvit', 'gg_deit'])
def test_torch_export(family):
    """torch.export's graph is right at other batches and sizes."""
    from torch.export import Dim, export
    from torch.fx.experimental import _config

    if not hasattr(_config, 'backed_size_oblivious'):
        pytest.skip('this torch takes sides of 1 for constants')
    model = shallow(family).eval()
    free = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):
        program = export(model, (torch.randn(2, 3, 257, 300),), dynamic_shapes=free)
    # The guards forbid batches of one, though the graph does not depend on it.
    exported = program.module(check_guards=False)
    for batch, height, width in [(2, 257, 300), (1, 250, 333), (3, 448, 256)]:
        image = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            for found, wanted in zip(exported(image), model(image)):
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', [(1, 1), (7, 8), (13, 5), (64, 97)])
@pytest.mark.parametrize('bins', [1, 2, 3, 6])
def test_adaptive_pool(size, bins):
    """Equals torch's own, also where there are more bins than rows."""
    x = torch.randn(2, 5, *size)
    found = AdaptivePool((bins, bins + 1))(x)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(x, (bins, bins + 1)))


def test_resize_cubic():
    """In a trace it is two products that give what torch's own does, at sizes not traced too."""

    class Resized(nn.Module):
        def forward(self, x, like):
            return resize_cubic(x, like.shape[2:])

    traced = torch.jit.trace(Resized(), (torch.randn(2, 3, 5, 8), torch.zeros(1, 1, 7, 7)))
    assert 'bicubic' not in str(traced.graph)
    for size in [(7, 7), (1, 1), (3, 14), (24, 5)]:
        for side in [(1, 1), (7, 7), (2, 31), (24, 9)]:
            x = torch.randn(2, 3, *side)
            wanted = F.interpolate(x, size, mode='bicubic', align_corners=False)
            torch.testing.assert_close(traced(x, torch.zeros(1, 1, *size)), wanted)
            torch.testing.assert_close(resize_cubic(x, size), wanted, atol=0, rtol=0)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (8, 8), (9, 4)])
def test_halving_max_pool(size):
    """Equals torch's pooling with padding, and so do its gradients."""
    x = torch.randn(2, 3, *size).requires_grad_()
    y = x.detach().clone().requires_grad_()
    found, wanted = halving_max_pool(x), F.max_pool2d(y, 3, stride=2, padding=1)
    assert torch.equal(found, wanted)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert torch.equal(x.grad, y.grad)


def test_crop_and_pad_image():
    """Cropping equals slicing, in either layout; padding is at the bottom and right."""
    x = torch.randn(2, 5, 7, 3)
    assert torch.equal(crop(x, 4, 7, 1), x[:, 1:4, 1:7])
    assert torch.equal(crop(x, 7, 2, first=2), x[:, :, :7, :2])
    assert torch.equal(pad_image(x, 4), F.pad(x, (0, 1, 0, 1)))


def test_known_equal():
    """In eager mode sizes are compared, and in nothing that is traced."""
    assert known_equal((3, 4), [3, 4]) and not known_equal((3, 4), (4, 3))

    class Padded(nn.Module):
        def forward(self, x):
            return x if known_equal(x.shape[2:], (4, 4)) else x + 1

    traced = torch.jit.trace(Padded(), torch.zeros(1, 1, 4, 4))
    assert traced(torch.zeros(1, 1, 4, 4)).max() == 1
