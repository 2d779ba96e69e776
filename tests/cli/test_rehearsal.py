"""``--check`` builds all that a run needs: what would end it in its first minute shows before."""

import re

import pytest

from support.running import CLS, DET, FOLDERS, ROOT, SEG, one_line_error, run

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')


@pytest.mark.parametrize(
    ('config', 'said'),
    [
        (DET, 'MaskRCNN on GCViT, N M parameters; 16 images to train on, 4 to evaluate on, 5 cl'),
        (
            SEG,
            'EncoderDecoder on GCViT, N M parameters; 16 images to train on, 4 to evaluate on, 6',
        ),
        (
            CLS,
            'ImageClassifier on GCViT, N M parameters; 5 images to train on, 5 to evaluate on, 5',
        ),
    ],
)
def test_what_is_ready(config, said, shapes, tmp_path):
    """One line says what there is; no work dir is made."""
    words = [config, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[config]]
    last = run('train.py', *words, '--check').splitlines()[-1]
    assert re.sub(r'\d+\.\d\d', 'N', last).startswith(f'ready: {said}')
    assert last.endswith(f' images a process; results go to {tmp_path / "work"}')
    assert not (tmp_path / 'work').exists()


def test_epochs(shapes, tmp_path):
    """A run by epochs names them, and what is to be tested its images."""
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{ROOT / CLS}'\ntrain_cfg = dict(_delete_=True, by_epoch=True, max_epochs=3)\n"
    )
    words = [config, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[CLS]]
    assert '5 classes; 3 epochs, 3 iterations of 16 images a process; ' in run(
        'train.py', *words, '--check'
    )
    config.with_suffix('.pth').touch()
    tested = run('test.py', config, config.with_suffix('.pth'), *words[1:], '--check')
    assert re.search(r'M parameters; 5 images to test on, 5 classes; results go to', tested)


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        ('train_dataloader.batchsize=2', 'no argument batchsize: did you mean batch_size?'),
        ('optim_wrapper.lr=1e-4', "unexpected keyword argument 'lr'"),
        ('optim_wrapper.optimizer.type=adamw', 'did you mean AdamW?'),
        ('model.backbone.arch=tinny', "GCViT has no arch 'tinny'"),
        ('train_cfg.max_epochs=1', '(did you mean max_iters?) cannot be built'),
        ('train_dataloader.dataset.ann_file=annotations', 'annotations is a folder: name a file'),
        ('val_evaluator.metrc=bbox', '(did you mean metric?) cannot be built'),
        ('param_scheduler.0.ennd=3', "unexpected keyword argument 'ennd'"),
        ('default_hooks.logger.intervall=3', '(did you mean interval?) cannot be built'),
    ],
)
def test_what_is_not(option, said, shapes, tmp_path):
    """Each of them passed, and ended the run when it was built."""
    words = [DET, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[DET]]
    assert said in one_line_error('train.py', *words, '--check', '--cfg-options', option)


def test_no_workers(shapes, tmp_path):
    """num_workers=0 is enough, though the config keeps its workers alive between epochs."""
    words = [DET, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[DET]]
    options = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']
    assert 'ready: ' in run('train.py', *words, '--check', '--cfg-options', *options)
