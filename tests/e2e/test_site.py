"""The documentation as a site."""

import re
import subprocess
import sys

import pytest

import gcvit_mm
from support.running import ROOT


def test_site_builds(tmp_path):
    """Sphinx builds without a warning and without the network; no link inside it is dead."""
    pytest.importorskip('sphinx')
    pytest.importorskip('myst_parser')
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', 'docs']
    built = subprocess.run([*command, tmp_path / 'html'], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = sorted((tmp_path / 'html').rglob('*.html'))
    names = {str(path.relative_to(tmp_path / 'html')) for path in pages}
    assert {'index.html', 'getting_started.html', 'families/gcvit.html', 'api.html'} <= names
    for path in pages:
        text = path.read_text(encoding='utf-8')
        for target in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if not re.match(r'[a-z]+:', target):
                assert (path.parent / target).exists(), f'{path.name}: {target}'
        # everything the pages load is their own
        assert not re.search(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="https?:', text
        )
    api = (tmp_path / 'html/api.html').read_text(encoding='utf-8')
    for name in gcvit_mm.__all__:
        assert name == '__version__' or f'id="gcvit_mm.{name}"' in api, f'{name} is not documented'
