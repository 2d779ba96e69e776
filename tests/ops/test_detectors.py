"""This project's detectors on the stand-in: bfloat16 trains as float32 does."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper

pytest.importorskip('mmdet')

from gcvit_mm import UserError
from gcvit_mm.engine import CPUAmpOptimWrapper
from gcvit_mm.ops import Extension
from support.detectors import SMALL, detector, images, train


@pytest.mark.parametrize('name', SMALL)
def test_bfloat16_trains_as_float32(ours, monkeypatch, name):
    """Two steps by mmengine's wrapper, which is told that it may do without a GPU, and by ours."""
    wide = train(name, lambda optimizer: OptimWrapper(optimizer))
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    narrow = train(name, lambda optimizer: AmpOptimWrapper(optimizer=optimizer, dtype='bfloat16'))
    for step, (a, b) in enumerate(zip(wide, narrow)):
        assert a.keys() == b.keys()
        assert all(torch.tensor(list(b.values())).isfinite())
        assert b['loss'] == pytest.approx(a['loss'], rel=0.05), step
    if name.startswith('mask'):
        mine = train(name, lambda optimizer: CPUAmpOptimWrapper(optimizer=optimizer))
        assert [losses['loss'] for losses in mine] == [losses['loss'] for losses in narrow]


@pytest.mark.parametrize('name', ['mask_gcvit_xxt_shapes', 'retinanet_gpvit_l1_1x'])
def test_bfloat16_beside_compiled_operators(compiled, use, monkeypatch, name):
    """By default what they lack is ours; GCVIT_MM_OPS=compiled says in one line what to do."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)

    def steps():
        return train(name, lambda optimizer: AmpOptimWrapper(optimizer=optimizer, dtype='bfloat16'))

    use(Extension(compiled))
    for losses in steps():
        assert all(torch.tensor(list(losses.values())).isfinite())
    if name.startswith('mask'):  # on a CPU RetinaNet asks for no operator
        use(Extension(compiled, 'compiled'))
        with pytest.raises(UserError, match='BFloat16.*leave out --amp'):
            steps()


@pytest.mark.parametrize('name', ['mask_gcvit_xxt_shapes'])
def test_trains_as_on_mmcvs_operators(both, name):
    """Losses of float32 on the compiled operators, and on ours."""
    theirs, mine = both(lambda: train(name, lambda optimizer: OptimWrapper(optimizer)))
    for a, b in zip(theirs, mine):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize('name', ['mask_gcvit_xxt_shapes', 'dino_gcvit_t_1x'])
def test_predicts(ours, name):
    """Boxes of an image, also under bfloat16 autocast."""
    model = detector(name).eval()
    data = model.data_preprocessor(images(), False)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad(), torch.autocast('cpu', dtype, enabled=dtype is torch.bfloat16):
            (result, _) = model(**data, mode='predict')
        assert result.pred_instances.bboxes.isfinite().all()
