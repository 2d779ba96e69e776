"""Bad input to the tools: one line that names the thing and the fix, and a status that is not 0."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from gcvit_mm import GCViT, UserError, cli
from gcvit_mm.compat import torch_before
from support.gcvit_reference import nvlabs_classifier_state
from support.running import CLS, DET, FOLDERS, ROOT, one_line_error, run

CONFIG = 'configs/mask_gcvit_xxt_shapes.py'


def test_wrong_config_path():
    """A misspelt config is named, with the nearest that exists."""
    error = one_line_error('train.py', 'configs/mask_gcvit_xxt_shape.py')
    assert 'mask_gcvit_xxt_shape.py does not exist' in error
    assert 'did you mean configs/mask_gcvit_xxt_shapes.py?' in error


def test_missing_data(tmp_path):
    """Missing data is named before anything is built."""
    error = one_line_error('train.py', CONFIG, '--data-root', tmp_path / 'nowhere')
    assert f'{tmp_path}/nowhere/annotations/instances_train2017.json does not exist' in error
    assert '--data-root' in error


def test_unreachable_weights(shapes, tmp_path):
    """Released weights that cannot be fetched: which file, where to put it, how to do without."""
    error = one_line_error(
        'train.py',
        'configs/mask_gcvit_t_1x.py',
        '--data-root',
        shapes / 'coco',
        '--cfg-options',
        'model.backbone.init_cfg.checkpoint=http://127.0.0.1:9/gcvit_1k_tiny.pth.tar',
        env=dict(TORCH_HOME=str(tmp_path)),
    )
    assert 'http://127.0.0.1:9/gcvit_1k_tiny.pth.tar' in error
    assert f'put it at {tmp_path}/hub/checkpoints/gcvit_1k_tiny.pth.tar' in error
    assert 'model.backbone.init_cfg=None' in error


def test_wrong_checkpoint(shapes, tmp_path):
    """A checkpoint of something else is refused instead of evaluated."""
    torch.save(dict(state_dict={'some.weight': torch.zeros(3)}), tmp_path / 'other.pth')
    error = one_line_error(
        'test.py',
        CONFIG,
        tmp_path / 'other.pth',
        '--work-dir',
        tmp_path,
        '--data-root',
        shapes / 'coco',
    )
    assert 'does not fit the MaskRCNN' in error and 'some.weight' in error


def test_no_masks_under_tta_of_mmdet(shapes, tmp_path):
    """A config that asks for DetTTAModel, which merges boxes only, is told what merges masks."""
    torch.save({}, tmp_path / 'any.pth')
    error = one_line_error(
        'test.py',
        CONFIG,
        tmp_path / 'any.pth',
        '--tta',
        '--data-root',
        shapes / 'coco',
        '--cfg-options',
        'tta_model.type=DetTTAModel',
    )
    assert '--tta: DetTTAModel' in error and 'gcvit_mm.engine.tta.MaskTTAModel' in error


@pytest.mark.parametrize('config', [DET, CLS])
def test_amp_needs_instructions(config, shapes, monkeypatch):
    """A processor that has none for bfloat16 would be slower; float16 is for GPUs."""
    monkeypatch.setattr(cli.devices, 'cpu_has_bfloat16', lambda: False)
    words = ['train.py', config, '--data-root', shapes / FOLDERS[config], '--amp']
    assert 'no instructions for bfloat16' in one_line_error(*words)
    assert '--amp float16 needs a GPU' in one_line_error(*words, 'float16')


def test_more_processes_than_gpus(monkeypatch):
    """Three processes for two GPUs are refused; on a machine without GPUs any number runs."""
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(UserError, match='3 processes but 2 GPU'):
        cli.check_devices()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    cli.check_devices()


def test_amp_and_scaling_options(monkeypatch):
    """--amp and --auto-scale-lr change what mmengine reads."""
    import train

    monkeypatch.setattr(cli.devices, 'get_device', lambda: 'cuda')
    cfg = cli.load_config(str(ROOT / CONFIG))
    train.apply_options(cfg, train.parse_args([CONFIG, '--amp', '--auto-scale-lr']))
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ('AmpOptimWrapper', 'bfloat16')
    assert cfg.auto_scale_lr.enable is True


def test_use_cpu_replaces_what_needs_a_gpu():
    """SyncBN becomes BN everywhere, nccl becomes gloo."""
    cfg = Config.fromfile(ROOT / 'configs/cascade_gcvit_t_3x.py')
    cfg.launcher = 'pytorch'
    cli.use_cpu(cfg)
    assert 'SyncBN' not in cfg.pretty_text
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.model_wrapper_cfg.device_ids is None


def test_use_cpu_takes_one_kernel_for_the_optimizer():
    """Where torch has one, and nothing else was chosen; a step is the same but for rounding."""
    for name in ('AdamW', 'SGD', 'Adagrad'):
        cfg = Config(dict(launcher='none', optim_wrapper=dict(optimizer=dict(type=name, lr=0.1))))
        cli.use_cpu(cfg)
        fused = name != 'Adagrad' and not torch_before('2.4')
        assert cfg.optim_wrapper.optimizer.get('fused', False) is fused
    for chosen in (dict(fused=False), dict(foreach=True)):
        optimizer = dict(type='Adam', **chosen)
        cfg = Config(dict(launcher='none', optim_wrapper=dict(optimizer=optimizer)))
        cli.use_cpu(cfg)
        assert cfg.optim_wrapper.optimizer == dict(type='Adam', **chosen)
    start, moved = torch.randn(50, 7), []
    for fused in (False, not torch_before('2.4')):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
        moved.append(parameter.detach())
    torch.testing.assert_close(*moved)


def test_data_root_moves_every_path():
    """Datasets and the annotation file of the metric move together."""
    cfg = Config.fromfile(ROOT / 'configs/mask_gcvit_t_1x.py')
    cli.replace_data_root(cfg, '/elsewhere/')
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere/'
    assert cfg.val_evaluator.ann_file == '/elsewhere/annotations/instances_val2017.json'
    assert 'data/coco' not in cfg.pretty_text


def test_broken_config(tmp_path):
    """A config with a syntax error, or without a model, is named."""
    (tmp_path / 'broken.py').write_text('model = dict(')
    (tmp_path / 'empty.py').write_text('a = 1')
    with pytest.raises(UserError, match='broken.py cannot be read'):
        cli.load_config(str(tmp_path / 'broken.py'))
    with pytest.raises(UserError, match='has no model'):
        cli.load_config(str(tmp_path / 'empty.py'))


def test_convert_checkpoint(tmp_path):
    """A released classifier becomes a file whose backbone and head keys are ours."""
    model = GCViT('xxtiny')
    source, target = tmp_path / 'gcvit.pth.tar', tmp_path / 'converted.pth'
    state = nvlabs_classifier_state(model, num_classes=10)
    torch.save(dict(state_dict=state, epoch=3), source)
    output = run('convert_checkpoint.py', source, target)
    assert "the authors' GC ViT layout" in output and 'CC BY-NC-SA' in output
    converted = torch.load(target)['state_dict']
    assert torch.equal(converted['head.fc.weight'], state['head.weight'])
    assert {k for k in converted if not k.startswith('backbone.')} == {
        'head.fc.weight',
        'head.fc.bias',
    }
    loaded = GCViT('xxtiny', init_cfg=dict(type='Pretrained', checkpoint=str(target)))
    loaded.init_weights()
    assert torch.equal(loaded.norm3.weight, state['norm.weight'])

    assert 'exists' in one_line_error('convert_checkpoint.py', source, target)
    error = one_line_error('convert_checkpoint.py', tmp_path / 'none', tmp_path / 'x.pth')
    assert 'none does not exist' in error
    assert not (tmp_path / 'x.pth').exists()


def test_get_flops_prints_parts():
    """The parts and the parameters are printed."""
    output = run('get_flops.py', CONFIG, '--shape', 64, 96)
    assert 'backbone' in output and 'mask_head' in output and 'parameters: ' in output


def test_traceback_on_demand(tmp_path):
    """GCVIT_MM_TRACEBACK=1 shows where an error comes from; the line is the last."""
    config = tmp_path / 'broken.py'
    config.write_text('model = dict(type=1 / 0)')
    output = run('train.py', config, env=dict(GCVIT_MM_TRACEBACK='1'), status=2)
    assert 'Traceback' in output and 'ZeroDivisionError' in output.splitlines()[-1]


def test_predict_draws_any_shape(tmp_path):
    """One pixel, a row of them, grey, alpha and 16 bits: drawn like any other image."""
    pytest.importorskip('mmpretrain')
    model = cli.build_model(cli.load_config(str(ROOT / CLS)))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    shapes = dict(one=(1, 1, 3), row=(1, 1500, 3), grey=(30, 40), alpha=(30, 40, 4))
    for name, shape in shapes.items():
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full(shape, 99, np.uint8))
    cv2.imwrite(str(tmp_path / 'deep.png'), np.full((30, 40, 3), 9999, np.uint16))
    paths = sorted(tmp_path.glob('*.png'))
    out = tmp_path / 'drawn'
    run('predict.py', CLS, tmp_path / 'model.pth', *paths, '--out-dir', out)
    assert sorted(path.name for path in out.iterdir()) == [path.name for path in paths]
