"""What is looked at before a run starts: once a machine, and no weights that a run will not use."""

import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from gcvit_mm import GCViT, UserError, cli
from gcvit_mm.checkpoints import CheckpointError
from support.running import CLS, ENV, ROOT

SMALL = dict(
    embed_dims=8,
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 2, 4),
    mlp_ratio=1.0,
    layer_scale=None,
    window_size=7,
    drop_path_rate=0.0,
)
NOBODY = 'http://127.0.0.1:9/gcvit_x.pth'  # where no one answers


@pytest.fixture
def server(tmp_path):
    """An address that serves the weights of a small GC ViT, slowly; and who asked for them."""
    path, asked = tmp_path / 'weights.pth', []
    torch.save(GCViT(SMALL, out_indices=(3,)).state_dict(), path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            time.sleep(3)  # long enough for the others to find nothing
            self.send_response(200)
            self.send_header('Content-Length', str(path.stat().st_size))
            self.end_headers()
            self.wfile.write(path.read_bytes())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{http.server_address[1]}/small.pth', asked
        http.shutdown()


def config(work_dir, address=NOBODY, **changes):
    """A classifier that starts from an address."""
    cfg = cli.load_config(str(ROOT / CLS))
    cfg.work_dir = str(work_dir)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=address)
    cfg.update(changes)
    return cfg


def test_processes_download_once(shapes, server, tmp_path):
    """Two processes of torchrun and an empty cache: one asks for the file, both go on."""
    address, asked = server
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command += [str(ROOT / 'tools/train.py'), str(ROOT / CLS), '--launcher=pytorch', '--check']
    command += ['--data-root', str(shapes / 'imagenet'), '--cfg-options']
    command += [
        f'model.backbone.init_cfg.{key}' for key in ('type=Pretrained', f'checkpoint={address}')
    ]
    done = subprocess.run(
        command,
        env=dict(ENV, TORCH_HOME=str(tmp_path), no_proxy='127.0.0.1', NO_PROXY='127.0.0.1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert asked == ['/small.pth']
    assert (tmp_path / 'hub/checkpoints/small.pth').is_file()


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
