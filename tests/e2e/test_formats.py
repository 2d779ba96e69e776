"""Exported files in other engines, with 8 bits, and in one table."""

import json
import os
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
if not all(find_spec(name) for name in ('onnx', 'onnxruntime')):
    pytest.skip('needs onnx and onnxruntime', allow_module_level=True)

import onnx
from benchmark import command

from gcvit_mm import UserError
from gcvit_mm.deploy import Predictor, metadata
from gcvit_mm.deploy.checking import drawn_picture, verify_detector
from gcvit_mm.deploy.onnx import ExportedModel, export_onnx, part_to_export, verify_onnx
from support.detectors import CONFIGS, decided, detector
from support.families import FAMILIES, FEW, shallow
from support.running import CLS, ROOT, one_line_error, run

SIZES = [(1, 96, 128), (2, 77, 131)]
needs_openvino = pytest.mark.skipif(not find_spec('openvino'), reason='needs openvino')
ARCH = {**FAMILIES['gcvit'][1], **FEW['gcvit'], 'drop_path_rate': 0.0}
DETECTORS = {
    'mask_gcvit_xxt_shapes': (16, 32, 64, 128),
    'dino_gcvit_t_1x': (32, 64, 128),
}


# ------------------------------------------------------------------- OpenVINO
@needs_openvino
@pytest.mark.parametrize('name', DETECTORS)
def test_openvino_finds_the_boxes_of_torch(name, tmp_path):
    """The same file at odd sizes and in batches, within half a pixel and 1e-3 of score."""
    path = str(tmp_path / 'model.onnx')
    backbone = dict(arch={**ARCH, '_delete_': True}, init_cfg=None)
    neck = dict(in_channels=list(DETECTORS[name]))
    model = decided(detector(name, backbone=backbone, neck=neck))
    part = part_to_export(Config.fromfile(CONFIGS / f'{name}.py'), model)
    export_onnx(part, path, (101, 131))
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    metadata.write(path, metadata.describe(cfg, part.kind, model, {}))
    assert verify_detector(model, path, SIZES, engine='openvino').boxes > 30


@needs_openvino
def test_openvino_gives_the_maps_of_torch(tmp_path):
    """At sizes that were not traced, in float32."""
    model = ExportedModel(shallow('gcvit'), 'backbone')
    path = str(tmp_path / 'maps.onnx')
    export_onnx(model, path, (97, 131))
    assert verify_onnx(model, path, SIZES, engine='openvino') < 1e-4


@needs_openvino
def test_openvino_gives_no_empty_maps(tmp_path):
    """GPViT where stripes need padding: OpenVINO 2026.4 goes wrong, and a line says so."""
    model = ExportedModel(shallow('gpvit'), 'backbone')
    path = str(tmp_path / 'maps.onnx')
    export_onnx(model, path, (97, 131))
    assert verify_onnx(model, path, SIZES[:1], engine='openvino') < 1e-4
    with pytest.raises(UserError, match='at 2x3x80x136: openvino cannot run it'):
        verify_onnx(model, path, [(2, 80, 136)], engine='openvino')


@needs_openvino
def test_what_openvino_cannot_read(files, tmp_path):
    """A line, and one for a file that says nothing of itself; what a file says is read whole."""
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(b'no graph')
    with pytest.raises(UserError, match=r'broken\.onnx: openvino cannot read it: \w'):
        Predictor(broken, engine='openvino')
    facts = [
        Predictor(files / 'model.onnx', engine=name).facts for name in ('openvino', 'onnxruntime')
    ]
    assert facts[0] == facts[1]


def test_without_openvino(files, monkeypatch):
    """One line with the command that installs it; engines that there are not are named."""
    monkeypatch.setitem(sys.modules, 'openvino', None)
    image = files / 'pictures/0.png'
    words = [files / 'model.onnx', image, '--json', files / 'found.json', '--engine']
    line = one_line_error('predict.py', *words, 'openvino')
    assert (
        'model.onnx is to run in openvino, which cannot be imported: pip install openvino' in line
    )
    with pytest.raises(UserError, match="engine 'tensorrt' is not known: choose from onnxruntime"):
        Predictor(files / 'model.onnx', engine='tensorrt')
    line = one_line_error('test.py', CLS, files / 'model.pth', '--engine', 'openvino')
    assert '--engine: runs FILE.onnx, not' in line


# ------------------------------------------------------------------- 8 bits
@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A small classifier as checkpoint and file, and pictures."""
    folder = tmp_path_factory.mktemp('files')
    backbone = dict(_delete_=True, type='GCViT', arch=ARCH, out_indices=(3,))
    model = dict(backbone=backbone, head=dict(in_channels=128))
    text = f'_base_ = {str(ROOT / CLS)!r}\nmodel = {model}\n'
    (folder / 'small.py').write_text(text)
    cfg = Config.fromfile(folder / 'small.py')
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    torch.nn.init.normal_(model.head.fc.weight, std=0.5)
    torch.save(dict(state_dict=model.state_dict()), folder / 'model.pth')
    (folder / 'pictures').mkdir()
    for i in range(3):
        Image.fromarray(drawn_picture(70, 64 + i, i)).save(folder / f'pictures/{i}.png')
    words = [folder / 'small.py', folder / 'model.pth', folder / 'model.onnx', '--uint8']
    run('export_onnx.py', *words, '--size', 64, 64)
    return folder


def quantised(files, shapes, out, *words):
    """What the tool prints of a file with 8 bits."""
    data = ['--int8', files / 'pictures', '--data-root', shapes / 'imagenet']
    return run('export_onnx.py', files / 'small.py', *words, out, *data)


def test_eight_bits(files, shapes, tmp_path):
    """Of a file: smaller, near it, and the tool says what it costs on the test set."""
    printed = quantised(files, shapes, tmp_path / 'int8.onnx', files / 'model.onnx')
    assert 'int8.onnx: 8 bits, scales from 3 pictures' in printed
    cells = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    before, after = map(float, cells['top1'])
    assert 0 <= after <= 100 and abs(before - after) <= 20  # of 25 pictures
    sizes = [
        (path / name).stat().st_size
        for path, name in ((files, 'model.onnx'), (tmp_path, 'int8.onnx'))
    ]
    assert list(map(float, cells['MB'])) == pytest.approx([size / 1e6 for size in sizes], abs=0.06)
    plain, eight = Predictor(files / 'model.onnx'), Predictor(tmp_path / 'int8.onnx')
    assert eight.facts == {**plain.facts, 'int8': {'pictures': 3}}
    picture = drawn_picture(64, 64, 7)
    logits = [p.run([picture])['logits'] for p in (plain, eight)]
    error = np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()
    assert 1e-5 < error < 1  # it is another computation, of weights that were never trained
    graph = onnx.load(tmp_path / 'int8.onnx').graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (head,) = (
        n
        for n in graph.node
        if n.op_type == 'DequantizeLinear'
        and 'head.fc' in n.input[0]
        and stored[n.input[0]].dtype == np.int8
    )
    weight, scale = (stored[name].astype(float) for name in head.input[:2])
    wanted = torch.load(files / 'model.pth')['state_dict']['head.fc.weight'].numpy()
    assert weight.shape == (5, 128) and scale.shape == (5,)  # one for each class
    assert (np.abs(weight * scale[:, None] - wanted) <= scale[:, None] * 0.501).all()


def test_eight_bits_of_a_checkpoint(files, tmp_path):
    """In one go; without a test set it is written all the same, and that is said."""
    words = [files / 'small.py', files / 'model.pth', tmp_path / 'int8.onnx', '--size', 64, 64]
    words += ['--int8', files / 'pictures', '--pictures', 2, '--data-root', tmp_path / 'none']
    printed = run('export_onnx.py', *words)
    assert 'onnxruntime agrees with torch' in printed and 'scales from 2 pictures' in printed
    assert 'metric not measured: test_dataloader: ' in printed and 'top1' not in printed
    assert [path.name for path in tmp_path.iterdir()] == ['int8.onnx']
    again = [
        files / 'small.py',
        tmp_path / 'int8.onnx',
        tmp_path / 'twice.onnx',
        '--int8',
        files / 'pictures',
    ]
    assert 'int8.onnx has 8 bits already' in one_line_error('export_onnx.py', *again)
    assert not (tmp_path / 'twice.onnx').exists()


@pytest.mark.parametrize(
    ('words', 'line'),
    [
        (['--int8', 'nowhere'], 'image nowhere does not exist'),
        (['--int8', 'tests'], 'tests has no images'),
        (['--int8', 'docs/images', '--pictures', 0], '--pictures must be at least 1'),
        (['--int8', 'docs/images', '--backbone'], '--int8: goes with whole models'),
        ([], 'model.onnx is exported already: name a checkpoint, or give --int8'),
    ],
)
def test_what_cannot_be_quantised(files, words, line, tmp_path):
    """A line each, and nothing is written."""
    out = tmp_path / 'out.onnx'
    assert line in one_line_error('export_onnx.py', CLS, files / 'model.onnx', out, *words)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------- the table
def table(tmp_path, *words):
    """Rows of ``--formats``, by name."""
    out = tmp_path / 'rows.json'
    options = ['--rounds', 2, '--warmups', 0, '--size', 64, 64, '--json', out]
    words = ['--formats', *words, *options]
    command.main([str(word) for word in words])
    return {row['name']: row for row in json.loads(out.read_text())['formats']}


def test_all_formats(files, shapes, tmp_path, monkeypatch, capsys):
    """Time, size and metric in one run; what is missing is a row that says why."""
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda self, **options: None)  # minutes
    # a worker that is forked beside the threads of OpenVINO ended the run in a fault
    monkeypatch.setattr(os, 'fork', lambda: pytest.fail('forked'))
    data = ['--data-root', shapes / 'imagenet']
    rows = table(tmp_path, files / 'model.onnx', files / 'small.py', files / 'model.pth', *data)
    names = ['torch', 'torch, compiled', 'onnxruntime', 'openvino', 'openvino-auto', 'int8']
    assert list(rows) == names
    assert rows['torch']['ratio']['median'] == 1 and rows['onnxruntime']['time']['median'] > 0
    assert rows['onnxruntime']['metrics'] == pytest.approx(rows['torch']['metrics'])
    assert rows['torch, compiled']['metrics'] == rows['torch']['metrics']
    size = (files / 'model.onnx').stat().st_size
    assert rows['onnxruntime']['megabytes'] == pytest.approx(size / 1e6)
    assert 'pip install openvino' in rows['openvino']['problem'] and 'time' not in rows['openvino']
    assert 'none of the files has 8 bits' in rows['int8']['problem']
    assert 'int8: none of the files has 8 bits' in capsys.readouterr().out


def test_formats_with_eight_bits(files, shapes, tmp_path):
    """Rows that are asked for, beside torch; without the metric no test set is needed."""
    quantised(files, shapes, tmp_path / 'int8.onnx', files / 'model.onnx')
    words = [files / 'model.onnx', tmp_path / 'int8.onnx', files / 'small.py', files / 'model.pth']
    rows = table(tmp_path, *words, '--only', 'onnxruntime', '--no-metric')
    assert list(rows) == ['torch', 'onnxruntime', 'onnxruntime, int8']
    assert all('ratio' in row and 'metrics' not in row for row in rows.values())


def test_which_formats_cannot_be_compared(files, tmp_path):
    """A line each."""
    file, checkpoint = str(files / 'model.onnx'), str(files / 'model.pth')
    for words, line in [
        ([file, CLS], 'give FILE.onnx ... CONFIG CHECKPOINT'),
        ([CLS, file, checkpoint], 'give FILE.onnx ... CONFIG CHECKPOINT'),
        ([file, file, CLS, checkpoint], 'name each file once'),
        ([file, CLS, 'no.pth'], 'file no.pth does not exist'),
        ([file, CLS, checkpoint, '--device', 'cuda'], '--formats: runs on the CPU|finds no GPU'),
        ([file, CLS, checkpoint, '--batch', '2'], 'times one image'),
        ([file, CLS, checkpoint, '--data-root', str(tmp_path)], 'does not exist'),
    ]:
        with pytest.raises(UserError, match=line):
            command.main(['--formats', *words])
    with pytest.raises(UserError, match='goes with --formats only'):
        command.main(['--suite', 'cpu', '--no-metric'])
