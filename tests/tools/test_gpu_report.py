"""tools/gpu_report.py, as far as it can be asked without a GPU."""

import json

import gpu_report as tool
import pytest
import torch

from gcvit_mm import UserError
from support.running import ROOT

BAR = dict(title='GC ViT over its transcription', value=0.456, limit=0.5, passed=True)
TRAINED = dict(
    ok=True,
    said='done',
    steps=20,
    images_per_second=12.34,
    peak_mb=9876,
    losses=[2.0] * 10 + [1.0] * 10,
    images='drawn',
)


@pytest.mark.parametrize('name', tool.TRAININGS)
@pytest.mark.parametrize('samples', [True, False], ids=['samples', 'drawn'])
def test_trainings_are_those_of_the_configs(name, samples, tmp_path, monkeypatch):
    """Full size, no evaluation, no download; images of a sample, or drawn ones."""
    if not samples:
        monkeypatch.setattr(tool, 'SAMPLES', tmp_path / 'nowhere')
        monkeypatch.setattr(tool, 'make_shapes', lambda *args: None)
    elif not tool.SAMPLES.is_dir():
        pytest.skip('no samples of COCO and ADE20K here')
    cfg, images = tool.training_config(name, tmp_path, 7, amp=True)
    shipped = tool.cli.load_config(str(ROOT / f'configs/{name}.py'))
    assert images == ('sample' if samples else 'drawn')
    assert cfg.train_cfg.max_iters == 7 and cfg.val_dataloader is None
    assert 'init_cfg' not in cfg.model.backbone
    assert cfg.optim_wrapper.dtype == 'bfloat16' and not cfg.optim_wrapper.loss_scale['enabled']
    assert cfg.train_dataloader.dataset.pipeline == shipped.train_dataloader.dataset.pipeline
    assert cfg.train_dataloader.batch_size == shipped.train_dataloader.batch_size
    text = str(cfg.model)
    assert ("'num_classes': 5" in text) is not samples
    assert str(tool.SAMPLES if samples else tmp_path) in cfg.train_dataloader.dataset.data_root


def test_summary():
    """The steps that warm up count for memory and losses, not for speed."""
    rows = [dict(loss=3.0, time=9.0, data_time=9.0, memory=5)]
    rows += [dict(loss=1.0, time=0.5, data_time=0.1, memory=7)] * 9
    found = tool.summary(rows, batch=2)
    assert found['images_per_second'] == pytest.approx(4) and found['waiting'] == pytest.approx(0.2)
    assert found['peak_mb'] == 7 and found['losses'][:2] == [3.0, 1.0] and found['steps'] == 10


def test_parts_survive_each_other(tmp_path, monkeypatch, capsys):
    """One part raises, one fails: the others stand in the file, and the status says so."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a card')
    monkeypatch.setattr(tool, 'tests', lambda folder: dict(ok=True, said='3 passed', passed=3))
    monkeypatch.setattr(tool, 'bars', lambda folder: 1 / 0)
    monkeypatch.setattr(tool, 'demo', lambda folder: dict(ok=False, said='error: no space'))
    monkeypatch.setattr(tool, 'training', lambda name, *args, **options: TRAINED)
    out = tmp_path / 'gpu.json'
    with pytest.raises(SystemExit, match='1'):
        tool.main(['--out', str(out)])
    parts = json.loads(out.read_text())['parts']
    assert list(parts) == list(tool.TITLES)
    assert 'ZeroDivisionError' in parts['bars']['said'] and not parts['demo']['ok']
    monkeypatch.setattr(tool, 'bars', lambda folder: dict(ok=True, said='', rows=[BAR]))
    tool.main(['--out', str(out), '--part', '2'])
    again = json.loads(out.read_text())['parts']
    assert again['bars']['rows'] == [BAR] and again['tests'] == parts['tests']
    assert 'bars: FAILED: ZeroDivisionError' in capsys.readouterr().out


def test_page():
    """What was measured, what failed and what was not tried; nothing where there was no GPU."""
    assert tool.page({}).startswith('Not measured')
    parts = dict(
        tests=dict(ok=True, said='', passed=41, skipped=2),
        bars=dict(ok=False, said='out of memory', rows=[BAR, dict(BAR, value=0.6, passed=False)]),
        mask_gg_t_1x=TRAINED,
    )
    text = tool.page(dict(device='a card', torch='2.11.0', parts=parts))
    assert text.startswith('a card, torch 2.11.0')
    assert '41 passed, 2 skipped' in text
    assert '| GC ViT over its transcription | 0.46 | 0.50 | passed |' in text
    assert '| 0.60 | 0.50 | **missed** |' in text
    assert '| `mask_gg_t_1x` | 12.3 | 9876 | 20 | 2.00, 1.00 | drawn |' in text
    assert 'Failed: bars (out of memory).' in text
    assert 'Not measured: demo, cascade_gcvit_t_3x' in text


def test_section_is_replaced(tmp_path):
    """Between its marks, and nothing else; a page without marks is left alone."""
    path = tmp_path / 'page.md'
    path.write_text(f'before\n{tool.MARKS[0]}\nold\n{tool.MARKS[1]}\nafter\n')
    tool.write_page(path, {})
    assert path.read_text().splitlines()[::4] == ['before', 'after']
    assert 'Not measured' in path.read_text() and 'old' not in path.read_text()
    path.write_text('no marks')
    with pytest.raises(UserError, match='has no section'):
        tool.write_page(path, {})
    assert path.read_text() == 'no marks'


def test_shipped_page_has_the_section(tmp_path):
    """What stands there is what the tool writes for some gpu.json."""
    text = (ROOT / 'docs/performance.md').read_text()
    section = text.partition(tool.MARKS[0])[2].partition(tool.MARKS[1])[0].strip()
    assert section.startswith('Not measured') or ', torch ' in section


def test_needs_a_gpu(monkeypatch):
    """One line where there is none."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='torch finds no GPU'):
        tool.main([])
