"""How the package is laid out: imports go one way, and no file is too long to read."""

import ast

import pytest
from graphlib import TopologicalSorter

from support.running import ROOT

PACKAGE = ROOT / 'gcvit_mm'
# Each may import from those behind it.
ORDER = (
    'inference',
    'cli',
    'planning',
    'datacheck',
    'deploy',
    'engine',
    'visualization',
    'zoo',
    'addresses',
    'channels_last',
    'utils',
    'necks',
    'backbones',
    'checkpoints',
    'layers',
    'ops',
    'compat',
    'messages',
    'processes',
    'errors',
    'version',
)
FILES = sorted(PACKAGE.rglob('*.py'))


def name_of(path):
    """Dotted name of a file below the package, '' for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


NAMES = {name_of(path): path for path in FILES}


def imports(path):
    """Modules of the package that a file imports, anywhere in it."""
    base = list(path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                prefix = base[: len(base) - node.level + 1]
            elif (node.module or '').split('.')[0] == 'gcvit_mm':
                prefix = []
            else:
                continue
            module = (node.module or '').split('.') if node.module else []
            module = module[1:] if not node.level else module
            whole = '.'.join([*prefix, *module])
            for alias in node.names:
                deeper = '.'.join(filter(None, [whole, alias.name]))
                found.add(deeper if deeper in NAMES else whole)
    return {name for name in found if name in NAMES and name != name_of(path)}


def test_modules_import_in_no_circle():
    """Neither at the top of a file nor inside of a function."""
    inside = {name: imports(path) for name, path in NAMES.items() if name not in ('', '__main__')}
    order = list(TopologicalSorter(inside).static_order())  # raises CycleError, which names it
    assert len(order) >= len(inside)


def test_rooms_import_one_way():
    """A room knows only those behind it, as docs/architecture.md draws it."""
    for name, path in NAMES.items():
        room = name.split('.')[0]
        if room in ORDER:
            for other in {found.split('.')[0] for found in imports(path)} - {room, ''}:
                assert other in ORDER, f'{name} imports {other}'
                assert ORDER.index(other) > ORDER.index(room), f'{name} imports {other}'


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_files_are_short(path):
    """A file of the package fits into a head."""
    assert len(path.read_text().splitlines()) <= 400


def test_tests_stay_outside():
    """Neither the package nor a tool imports from tests/."""
    for path in [*FILES, *(ROOT / 'tools').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or '']
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            assert not any(m.split('.')[0] in ('tests', 'support') for m in modules), path


def test_tests_share_through_support():
    """No test file imports from another one."""
    for path in (ROOT / 'tests').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, 'module', None) or '', *(a.name for a in node.names)]
                assert not any(name.startswith('test_') for name in names), path
