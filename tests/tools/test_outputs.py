"""What tools write never stands in the place of what they read, and is whole or not there."""

import errno
import importlib.util
import os
import shutil

import cv2
import mmcv
import numpy as np
import pytest
import torch

from gcvit_mm import GCViT, UserError, cli
from support.gcvit_reference import nvlabs_classifier_state
from support.running import CLS, DET, FOLDERS, ROOT, SEG, one_line_error


def tool(name):
    """The main function of a tool."""
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """A checkpoint of the small classifier."""
    pytest.importorskip('mmpretrain')
    path = tmp_path_factory.mktemp('classifier') / 'ck.pth'
    model = cli.build_model(cli.load_config(str(ROOT / CLS)))
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


@pytest.fixture
def checkpoint(classifier, tmp_path):
    """A copy of it, and a link to the folder of that."""
    (tmp_path / 'link').symlink_to(tmp_path)
    return shutil.copy(classifier, tmp_path / 'ck.pth')


@pytest.fixture
def image(tmp_path):
    """An image in a folder of its own."""
    (tmp_path / 'images').mkdir()
    path = tmp_path / 'images' / 'a.png'
    cv2.imwrite(str(path), np.full((40, 40, 3), 90, np.uint8))
    return path


def refused(name, *words):
    """The error of a tool that must not write."""
    with pytest.raises(UserError, match='would replace .*, which is read: write it elsewhere|lies'):
        tool(name)([str(word) for word in words])


@pytest.mark.parametrize('out', ['ck.pth', 'link/ck.pth', 'other.onnx'])
def test_export_does_not_replace_its_checkpoint(out, checkpoint, tmp_path):
    """By its own name, through a linked folder, and as a link to it."""
    before = checkpoint.read_bytes()
    if out == 'other.onnx':
        (tmp_path / out).symlink_to(checkpoint)
    refused('export_onnx', ROOT / CLS, checkpoint, tmp_path / out)
    assert checkpoint.read_bytes() == before


def test_convert_does_not_replace_its_source(tmp_path):
    """--force overwrites other files only."""
    path = tmp_path / 'gcvit.pth.tar'
    torch.save(nvlabs_classifier_state(GCViT('xxtiny')), path)
    before = path.read_bytes()
    refused('convert_checkpoint', path, path, '--force')
    assert path.read_bytes() == before
    (tmp_path / 'out.pth').write_text('old')
    tool('convert_checkpoint')([str(path), str(tmp_path / 'out.pth'), '--force'])
    assert torch.load(tmp_path / 'out.pth', weights_only=True)['meta']['source'] == path.name


@pytest.mark.parametrize('how', ['its folder', 'linked folder', 'linked image'])
def test_predict_does_not_draw_over_its_images(how, checkpoint, image, tmp_path):
    """Into the folder of the image itself, through links too."""
    before, folder = image.read_bytes(), image.parent
    if how == 'linked folder':
        folder = tmp_path / 'drawn'
        folder.symlink_to(image.parent)
    if how == 'linked image':
        folder = tmp_path / 'drawn'
        folder.mkdir()
        (folder / 'a.png').symlink_to(image)
    refused('predict', ROOT / CLS, checkpoint, image, '--out-dir', folder)
    assert image.read_bytes() == before


def test_full_disk_leaves_no_empty_image(checkpoint, image, tmp_path, monkeypatch):
    """The image drawn before stays; no part of a new one is left."""
    words = [str(word) for word in (ROOT / CLS, checkpoint, image, '--out-dir', tmp_path / 'out')]
    tool('predict')(words)
    drawn = (tmp_path / 'out' / 'a.png').read_bytes()
    assert mmcv.imread(str(tmp_path / 'out' / 'a.png')) is not None

    def full(image, path, *args, **kwargs):
        open(path, 'wb').close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mmcv, 'imwrite', full)
    with pytest.raises(UserError, match='cannot write .*a.png: No space left on device: make'):
        tool('predict')(words)
    assert os.listdir(tmp_path / 'out') == ['a.png']
    assert (tmp_path / 'out' / 'a.png').read_bytes() == drawn


@pytest.mark.parametrize('config', [DET, SEG, CLS])
def test_full_disk_under_show_dir(config, shapes, tmp_path, monkeypatch):
    """The first image that cannot be drawn ends the test, with its name; nothing of it is left."""
    model = cli.build_model(cli.load_config(str(ROOT / config)))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'ck.pth')

    def full(image, path, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mmcv, 'imwrite', full)
    words = [config, tmp_path / 'ck.pth', '--work-dir', tmp_path / 'run', '--data-root']
    words += [shapes / FOLDERS[config], '--show-dir', tmp_path / 'drawn', '--cfg-options']
    words += ['test_dataloader.num_workers=0']
    error = one_line_error('test.py', *words)
    assert f'cannot write {tmp_path}/drawn/' in error and 'No space left on device' in error
    assert os.listdir(tmp_path / 'drawn') == []


def test_show_dir_is_not_the_folder_of_the_data(checkpoint, shapes, tmp_path):
    """tools/test.py would draw over the validation set."""
    data = shutil.copytree(shapes / 'imagenet', tmp_path / 'data')
    folder = next(path.parent for path in sorted(data.glob('val/**/*')) if path.is_file())
    before = {path: path.read_bytes() for path in folder.iterdir()}
    words = ['--data-root', data, '--work-dir', tmp_path / 'run', '--show-dir', folder]
    words += ['--cfg-options', 'test_dataloader.num_workers=0']
    words += ['test_dataloader.persistent_workers=False']
    refused('test', ROOT / CLS, checkpoint, *words)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_results_do_not_replace_the_checkpoint(checkpoint, tmp_path):
    """--out of tools/test.py, with a checkpoint that is called so."""
    path = shutil.move(checkpoint, tmp_path / 'ck.pkl')
    refused('test', ROOT / CLS, path, '--out', path)


def test_other_links_are_replaced_not_followed(tmp_path):
    """An output that is a link to somewhere else does not write there."""
    (tmp_path / 'target').write_text('precious')
    (tmp_path / 'out').symlink_to(tmp_path / 'target')
    with cli.whole_output(str(tmp_path / 'out')) as path, open(path, 'w') as file:
        file.write('new')
    assert (tmp_path / 'target').read_text() == 'precious'
    assert (tmp_path / 'out').read_text() == 'new' and not (tmp_path / 'out').is_symlink()
