"""What is looked at before a run starts: once a machine, and no weights that a run will not use."""

import pytest
import torch
from mmengine.config import Config

from gcvit_mm import UserError, cli
from gcvit_mm.checkpoints import CheckpointError
from gcvit_mm.datacheck.folders import check_data
from support.running import CLS, ROOT

NOBODY = 'http://127.0.0.1:9/gcvit_x.pth'  # where no one answers


def config(work_dir, address=NOBODY, **changes):
    """A classifier that starts from an address."""
    cfg = cli.load_config(str(ROOT / CLS))
    cfg.work_dir = str(work_dir)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=address)
    cfg.update(changes)
    return cfg


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """An empty cache, and nobody who answers."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')


@pytest.mark.parametrize('how', ['resume', 'resume a file', 'restarted'])
def test_resumed_run_asks_for_no_weights(how, nobody, tmp_path, monkeypatch):
    """What it resumes from holds them."""
    (tmp_path / 'iter_3.pth').touch()
    changes = dict(resume=how != 'restarted')
    if how == 'resume a file':
        changes['load_from'] = str(tmp_path / 'iter_3.pth')
    if how == 'restarted':
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    cfg = config(tmp_path, **changes)
    cli.fetch_pretrained(cfg)
    assert cfg.model.backbone.init_cfg is None


@pytest.mark.parametrize('changes', [dict(resume=True), dict(load_from='x.pth'), {}], ids=str)
def test_run_that_starts_anew_asks_for_weights(changes, nobody, tmp_path):
    """Nothing to resume from, or only weights: the backbone starts from its own file."""
    with pytest.raises(CheckpointError, match='cannot download http://127.0.0.1:9/gcvit_x.pth'):
        cli.fetch_pretrained(config(tmp_path, **changes))


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('mask_gcvit_t_3x.py', 'name .*configs/mask_gcvit_t_3x.py$'),
        ('mask_gcvit_t_3x', 'name .*configs/mask_gcvit_t_3x.py$'),
        ('config/mask_gcvit_t3x.py', 'did you mean .*configs/mask_gcvit_t_3x.py'),
        ('mine.p', r'did you mean mine\.py'),
        ('xyz', 'check the path'),
    ],
)
def test_path_of_a_config(name, hint, tmp_path, monkeypatch):
    """A shipped one is named with its path, others with the nearest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.py').touch()
    with pytest.raises(UserError, match=f'config {name} does not exist: {hint}'):
        cli.load_config(name)


def test_config_without_data(tmp_path):
    """A model alone is nothing to train."""
    cfg = config(tmp_path, train_dataloader=None)
    with pytest.raises(UserError, match='has no train_dataloader: .*configs/templates'):
        cli.preflight(cfg, 'train_dataloader', training=True)


def test_root_without_a_slash(tmp_path):
    """Paths that a config puts together miss it, which is told from files that are not there."""
    root = tmp_path / 'data'
    root.mkdir()
    (root / 'val.json').touch()
    cfg = Config(dict(data_root=str(root), val_evaluator=dict(ann_file=f'{root}val.json')))
    with pytest.raises(UserError, match=f"end data_root with a slash, '{root}/'"):
        check_data(cfg, 'val_dataloader')
    (root / 'val.json').unlink()
    with pytest.raises(UserError, match='name the annotations of val_dataloader'):
        check_data(cfg, 'val_dataloader')


@pytest.mark.parametrize('name', ['LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'])
def test_one_process_looks_at_the_data(name, tmp_path, monkeypatch):
    """The second process of a machine leaves it to the first, under every launcher."""
    for other in ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(other, raising=False)
    cfg = config(tmp_path)
    cli.replace_data_root(cfg, str(tmp_path / 'nowhere'))
    with pytest.raises(UserError, match='nowhere.* does not exist'):
        cli.preflight(cfg, 'train_dataloader')
    monkeypatch.setenv(name, '1')
    cli.preflight(cfg, 'train_dataloader')
