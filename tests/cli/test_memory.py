"""What a run says of the memory of its GPU, without a GPU."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import IterBasedTrainLoop, Runner

pytest.importorskip('mmpretrain')

from gcvit_mm import GCViT, cli
from gcvit_mm.cli import memory
from gcvit_mm.planning.advice import Change
from gcvit_mm.planning.cards import GB
from support.configs import read_config
from support.running import CLS, FOLDERS, iterations, run

ROOM = 24 * GB


@pytest.fixture
def cfg():
    """A classifier of few blocks."""
    cfg = read_config('cls_gcvit_xxt_300e')
    cfg.model.backbone.arch = dict(GCViT.arch_zoo['xxtiny'], depths=(1, 1, 1, 1))
    cfg.train_dataloader.batch_size = 32
    return cfg


def test_in_words():
    """With a GPU and without one."""
    assert memory.compared(int(17.24 * GB), ROOM) == 'needs about 17.2 GB of 24 GB'
    assert memory.compared(25 * GB, ROOM) == 'needs about 25.0 GB of 24 GB: does not fit'
    assert memory.compared(GB // 2, None) == 'needs about 0.5 GB of a GPU'


def test_the_gpu_of_this_process(monkeypatch):
    """Slurm may show each process its own alone, whatever its rank on the machine."""
    monkeypatch.setenv('SLURM_LOCALID', '3')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    cards = [SimpleNamespace(total_memory=ROOM)]
    monkeypatch.setattr(torch.cuda, 'get_device_properties', cards.__getitem__)
    assert memory.gpu_memory() == ROOM


def test_what_fits(cfg, monkeypatch):
    """Loggers speak again after it; a model that cannot be predicted is no error."""
    monkeypatch.setattr(memory, 'gpu_memory', lambda: GB)
    assert re.match(r'needs about 2\.3 GB of 1 GB: does not fit$', memory.memory_line(cfg))
    assert logging.root.manager.disable == logging.NOTSET
    del cfg.model.backbone  # no model that can be predicted
    assert memory.memory_line(cfg).startswith('what it needs of a GPU is not known: python -m')


# ------------------------------------------------------------------- at the start of a run
class Logger:
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def info(self, text):
        self.said.append(('info', text))

    def warning(self, text):
        self.said.append(('warning', text))


def runner_of(path):
    """A runner as far as the hook asks it."""
    cfg = SimpleNamespace(filename=str(path))
    return SimpleNamespace(work_dir=str(path.parent), cfg=cfg, world_size=1, logger=Logger())


class Ended:
    """A process that has found something out."""

    returncode = 0

    def poll(self):
        return self.returncode

    def communicate(self):
        return f'words of a library\n{{"needed_bytes": {2 * GB}}}\n', None


@pytest.mark.parametrize(('room', 'level'), [(ROOM, 'info'), (GB, 'warning')])
def test_a_run_says_it_when_it_is_known(room, level, tmp_path, monkeypatch):
    """Once, and louder where it does not fit."""
    monkeypatch.setattr(memory, 'gpu_memory', lambda: room)
    hook, runner = memory.MemoryReport(), runner_of(tmp_path / 'config.py')
    hook.after_train_iter(runner, 0)
    assert runner.logger.said == []
    hook.process = Ended()
    for step in (1, 2):
        hook.after_train_iter(runner, step)
    ((found, text),) = runner.logger.said
    assert found == level and text.startswith('memory   needs about 2.0 GB of')
    assert text.endswith('GB says more') == (level == 'warning')
    hook.process = Ended()
    hook.process.returncode = 2  # it cannot be predicted
    hook.after_train_iter(runner, 3)
    assert len(runner.logger.said) == 1 and hook.process is None


# ------------------------------------------------------------------- out of memory
def test_out_of_memory_names_what_fits(cfg):
    """The cheapest changes together, as the planner finds them."""
    cfg.val_dataloader.batch_size = 1
    line = str(memory.out_of_memory(cfg, 7, int(1.8 * GB)))
    assert re.match(r'out of GPU memory at step 7: a process needs about 2\.3 GB of 2 GB: ', line)
    options = r"--amp --cfg-options 'model\.backbone\.with_cp=\[0\]'"
    assert re.search(rf'not fit; {options} needs about 1\.7 GB; python -m gcvit_mm plan', line)


def test_evaluations_that_need_most(cfg):
    """Smaller batches of training would not help: those of the evaluation are named."""
    line = str(memory.out_of_memory(cfg, 7, int(1.8 * GB)))
    options = "val_dataloader.batch_size=1 'model.backbone.with_cp=[0]'"
    assert f'--cfg-options {options} needs' in line


@pytest.mark.parametrize(
    ('needed', 'best', 'said'),
    [
        (2, None, 'of 24 GB, so another program may hold the rest (nvidia-smi); python -m'),
        (99, None, '99.0 GB of 24 GB: does not fit, whatever is changed; python -m'),
        (99, 40, '99.0 GB of 24 GB: does not fit, whatever is changed; python -m'),
        (99, 20, '99.0 GB of 24 GB: does not fit; --amp needs about 20.0 GB; python -m'),
        (None, None, 'try --amp, --cfg-options model.backbone.with_cp=True or a smaller'),
    ],
)
def test_what_out_of_memory_can_say(needed, best, said, cfg, monkeypatch):
    """Also of what fits as far as is known, of what nothing helps, and of an unknown model."""

    def planned(cfg, room):
        if needed is None:
            raise KeyError('backbone')
        return needed * GB, [Change('bfloat16', '--amp', best * GB, 'rounding')] if best else []

    monkeypatch.setattr(memory, 'planned', planned)
    assert said in str(memory.out_of_memory(cfg, 7, ROOM))


def test_options_too_long_for_a_line(cfg, monkeypatch):
    """Smaller pictures take an option for every transform: the plan prints them."""
    change = Change('pictures with sides of 75%', '--cfg-options ' + 'x' * 500, 20 * GB, 'accuracy')
    monkeypatch.setattr(memory, 'planned', lambda cfg, room: (30 * GB, [change]))
    line = str(memory.out_of_memory(cfg, 7, ROOM))
    assert 'pictures with sides of 75%, after cheaper changes, needs about 20.0 GB; python' in line
    assert len(line) < 300


def test_a_run_out_of_memory_ends_in_a_line(shapes, tmp_path, monkeypatch):
    """At its second step: one line, status 2, which no launcher tries again."""
    once = IterBasedTrainLoop.run_iter

    def run_iter(self, batch):
        if self.runner.iter == 1:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        once(self, batch)

    monkeypatch.setattr(IterBasedTrainLoop, 'run_iter', run_iter)
    monkeypatch.setattr(cli, 'gpu_memory', lambda: ROOM)
    monkeypatch.setattr(cli, 'MemoryReport', Silent)
    words = [CLS, '--work-dir', tmp_path, '--data-root', shapes / FOLDERS[CLS], '--cfg-options']
    output = run('train.py', *words, *iterations(3), status=2)
    (line,) = re.findall(r'^error: (.*)', output, re.M)
    assert line.startswith('out of GPU memory at step 2: ') and 'Traceback' not in output
    assert 'so another program may hold the rest (nvidia-smi)' in line


class Silent(memory.MemoryReport):
    """Starts no process."""

    def before_train(self, runner):
        assert isinstance(runner, Runner)
