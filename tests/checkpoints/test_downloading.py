"""Downloads are whole, of the right address, and go on where they were cut."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from gcvit_mm.checkpoints import CheckpointError
from gcvit_mm.checkpoints.reading import local_path

DATA = bytes(range(256)) * 400
OTHER = DATA[::-1]


class Server:
    """Serves some bytes under any name; may cut transfers, and leave things out."""

    def __init__(self):
        self.data, self.tag, self.cuts, self.length, self.asked = DATA, '"1"', [], True, []

    def reply(self, request):
        """Answer one request."""
        given, start = request.headers.get('Range'), 0
        self.asked.append(given)
        if given and request.headers.get('If-Range') == self.tag:
            start = int(given[len('bytes=') : -1])
            if start >= len(self.data):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header('Content-Range', f'bytes {start}-/{len(self.data)}')
        else:
            request.send_response(200)
        if self.tag:
            request.send_header('ETag', self.tag)
        if self.length:
            request.send_header('Content-Length', str(len(self.data) - start))
        request.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(self.data)
        request.wfile.write(self.data[start:end])


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server, its address, and an empty folder for downloads."""
    serving = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            serving.reply(self)

        def log_message(self, *args):
            pass

    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    for name in ('no_proxy', 'NO_PROXY'):
        monkeypatch.setenv(name, '127.0.0.1')
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        serving.address = f'http://127.0.0.1:{http.server_address[1]}'
        serving.folder = tmp_path / 'checkpoints'
        yield serving
        http.shutdown()


def names(server):
    """Files that are whole by their names."""
    return sorted(p.name for p in server.folder.iterdir() if p.suffix == '.pth')


def content(path):
    """Bytes of a file."""
    with open(path, 'rb') as file:
        return file.read()


def test_cut_transfers_go_on(server):
    """Twice cut: every try asks for the rest only."""
    server.cuts = [1000, 2000]
    assert content(local_path(f'{server.address}/a.pth')) == DATA
    assert server.asked == [None, 'bytes=1000-', 'bytes=3000-']
    assert local_path(f'{server.address}/a.pth') and len(server.asked) == 3


def test_cut_transfer_is_not_kept(server):
    """No file of that name; a later call goes on with what there is."""
    server.cuts = [1000, 10, 10]
    with pytest.raises(CheckpointError, match='1020 of 102400 bytes arrived.*put it at .*a.pth'):
        local_path(f'{server.address}/a.pth')
    assert names(server) == []
    assert content(local_path(f'{server.address}/a.pth')) == DATA
    assert server.asked[-1] == 'bytes=1020-'


def test_ended_before_it_was_renamed(server):
    """All bytes of a version had come: they are not asked for again in vain."""
    path = server.folder / 'a.pth'
    local_path(f'{server.address}/a.pth')
    path.rename(server.folder / 'a.pth.partial')
    assert content(local_path(f'{server.address}/a.pth')) == DATA


@pytest.mark.parametrize('tag', ['"2"', None])
def test_changed_files_begin_anew(tag, server):
    """What came of an older version is not put before what comes of a newer one."""
    server.cuts = [1000, 10, 10]
    with pytest.raises(CheckpointError):
        local_path(f'{server.address}/a.pth')
    server.data, server.tag = OTHER, tag
    assert content(local_path(f'{server.address}/a.pth')) == OTHER


def test_same_name_of_another_address(server):
    """Another release with a usual name is another file, and stays so."""
    first = local_path(f'{server.address}/one/model.pth')
    server.data = OTHER
    second = local_path(f'{server.address}/two/model.pth')
    assert first != second and (content(first), content(second)) == (DATA, OTHER)
    assert local_path(f'{server.address}/one/model.pth') == first
    assert local_path(f'{server.address}/two/model.pth') == second
    assert len(server.asked) == 2


def test_published_hashes_are_checked(server):
    """A name that ends in a hash is that of its content."""
    right = hashlib.sha256(DATA).hexdigest()[:8]
    assert content(local_path(f'{server.address}/net-{right}.pth')) == DATA
    with pytest.raises(CheckpointError, match='sha256 does not begin with 0123abcd'):
        local_path(f'{server.address}/net-0123abcd.pth')
    assert names(server) == [f'net-{right}.pth']


def test_length_may_be_unknown(server):
    """A server that announces none is believed when it closes."""
    server.length = False
    assert content(local_path(f'{server.address}/a.pth')) == DATA


def test_file_put_there_is_taken(server):
    """Whatever the address: nothing is asked for."""
    server.folder.mkdir()
    (server.folder / 'a.pth').write_bytes(OTHER)
    assert content(local_path(f'{server.address}/a.pth')) == OTHER and not server.asked
