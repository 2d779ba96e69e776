"""Weights that several processes of a machine need, and none has."""

import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from gcvit_mm import GCViT
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
