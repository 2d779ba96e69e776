"""The documentation is true: paths, options, examples, tables, figures, templates; it builds."""

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import runpy
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import gcvit_mm
from gcvit_mm import backbones
from gcvit_mm.cli import plan
from gcvit_mm.layers import WindowAttention
from support.running import ROOT

DOCS = sorted((ROOT / 'docs').rglob('*.md'))
DOCS = [path for path in DOCS if '_build' not in path.parts]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'configs/README.md', *DOCS]
TEMPLATES = ROOT / 'configs/templates'
FENCE = re.compile(r'^```(\w*)[^\n]*\n(.*?)^```', re.M | re.S)
MODULES = [m.name for m in pkgutil.walk_packages(gcvit_mm.__path__, 'gcvit_mm.')]
# Options that belong to other programs, where a page names them.
FOREIGN = {'--no-deps'}
# Files that a reader makes, or might.
USERS_OWN = ('configs/templates/my_', 'configs/_base_/backbones/name_')


def blocks(page: Path, language: str) -> list:
    """Code blocks of a page in one language."""
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def page_id(path: Path) -> str:
    """Path of a page in the checkout."""
    return str(path.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=page_id)
def page(request) -> Path:
    """Every page of README, docs and configs."""
    return request.param


# ------------------------------------------------------------------- examples
def test_modules_have_examples():
    """The walk below finds modules, and examples in the backbones."""
    finder = doctest.DocTestFinder()
    found = finder.find(gcvit_mm.GCViT, globs={})
    assert sum(len(test.examples) for test in found) >= 4
    assert 'gcvit_mm.layers.attention' in MODULES


@pytest.mark.parametrize('name', MODULES)
def test_docstring_examples(name):
    """What the docstrings show after >>> is what comes out."""
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_python_blocks(page):
    """Python blocks parse; those that import torch run; the others are configs that load."""
    for text in blocks(page, 'python'):
        ast.parse(text)
        if 'import torch' in text:
            exec(compile(text, str(page), 'exec'), {})
        elif '_base_' not in text and '=' in text and 'import ' not in text:
            assert len(Config.fromstring(text, '.py'))


# ------------------------------------------------------------------- names
def test_paths_exist(page):
    """Files of the checkout that a page names or links to are there."""
    # without the blocks that show what tools print
    text = FENCE.sub(lambda match: match[0] if match[1] else '', page.read_text())
    paths = re.findall(
        r'\b((?:configs|docs|tools|tests|gcvit_mm)/[\w./-]*\.(?:py|sh|md|png))', text
    )
    links = re.findall(r'\]\(([^)#\s]+)', text)
    missing = [p for p in paths if not (ROOT / p).exists() and not p.startswith(USERS_OWN)]
    missing += [p for p in links if ':' not in p and not (page.parent / p).exists()]
    assert not missing


def test_config_names_exist(page):
    """Configs named in code without their folder are there too."""
    heads = '|'.join({path.name.split('_')[0] for path in (ROOT / 'configs').glob('*.py')})
    names = re.findall(rf'`((?:{heads})_\w+_(?:\d+x|\d+k|\d+e|shapes))`', page.read_text())
    missing = [name for name in names if not (ROOT / f'configs/{name}.py').exists()]
    assert not missing


WRAPPERS = {'dist_train.sh': 'train.py', 'slurm_train.sh': 'train.py', 'dist_test.sh': 'test.py'}


@lru_cache(maxsize=None)
def options(tool: str) -> frozenset:
    """Options that a tool knows, from its help."""
    path = str(ROOT / 'tools' / WRAPPERS.get(tool, tool))
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, 'argv', [path, '--help'])
        with pytest.raises(SystemExit):
            runpy.run_path(path, run_name='__main__')
    return frozenset(re.findall(r'(?<!\w)--[a-z][a-z-]*', printed.getvalue()))


def options_of_plan() -> frozenset:
    """Options of ``python -m gcvit_mm plan``."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        plan.parse_args(['--help'])
    return frozenset(re.findall(r'(?<!\w)--[a-z][a-z-]*', printed.getvalue()))


def test_options_of_commands(page):
    """Commands in shell blocks use options that their tool has."""
    for text in blocks(page, 'sh'):
        for line in text.replace('\\\n', ' ').splitlines():
            command = line.partition('#')[0]
            match = re.search(r'tools/(\w+\.(?:py|sh))', command)
            used = set(re.findall(r'(?<!\w)--[a-z][a-z-]*', command))
            if match and used and match[1] != 'setup_env.sh':
                assert used <= options(match[1]), (command, used - options(match[1]))


def test_options_in_the_text(page):
    """Options named in running text belong to one of the tools."""
    text = FENCE.sub('', page.read_text())
    used = set(re.findall(r'`[^`\n]*?(?<!\w)(--[a-z][a-z-]*)', text)) - FOREIGN
    if used:
        tools = sorted(path.name for path in (ROOT / 'tools').glob('*.py'))
        known = options_of_plan().union(*(options(tool) for tool in tools))
        assert used <= known, used - known


def test_arguments_of_the_family_pages():
    """Every argument that a family page explains is one of its class."""
    for path in sorted((ROOT / 'docs/families').glob('*.md')):
        text = path.read_text()
        for name, rows in re.findall(r'\(arguments-(\w+)\)=.*?\n\n(\|.*?)\n\n', text, re.S):
            cls = {c.lower(): getattr(backbones, c) for c in backbones.__all__}[name]
            known = {p for base in cls.__mro__ for p in inspect.signature(base.__init__).parameters}
            for cell in re.findall(r'^\| ([^|]*)\|', rows, re.M)[2:]:
                for argument in re.findall(r'`(\w+)', cell):
                    assert argument in known, f'{path.name}: {name} has no {argument}'


# ------------------------------------------------------------------- numbers
def published_archs() -> list:
    """Class, arch and parameters in M of every row of the tables of the family pages."""
    rows = []
    for path in sorted((ROOT / 'docs/families').glob('*.md')):
        cls = ''
        for line in path.read_text().splitlines():
            head = re.match(r'\| arch of `(\w+)`', line)
            cls = head[1] if head else (cls if line.startswith('|') else '')
            row = re.match(r'\| `(\w+)` .*\| ([\d.]+) \|$', line) if cls else None
            if row:
                rows.append((cls, row[1], float(row[2])))
    return rows


@pytest.mark.parametrize(('cls', 'arch', 'millions'), published_archs())
def test_parameters_of_the_family_pages(cls, arch, millions):
    """The parameters of the backbones in the tables are those that are built."""
    with torch.device('meta'):
        model = getattr(backbones, cls)(arch)
    assert f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f}' == f'{millions:.2f}'


def test_every_arch_has_a_row():
    """No arch of a backbone is forgotten."""
    listed = {(cls, arch) for cls, arch, _ in published_archs()}
    for name in backbones.__all__:
        archs = getattr(getattr(backbones, name), 'arch_zoo', {})
        assert {(name, arch) for arch in archs} <= listed


def test_citations_are_of_the_papers():
    """One entry a paper that README links, with authors, venue and year."""
    text = (ROOT / 'docs/families/index.md').read_text()
    entries = re.findall(r'^@inproceedings\{.*?^}', text, re.M | re.S)
    linked = re.findall(r'arxiv\.org/abs/([\d.]+)', (ROOT / 'README.md').read_text())
    found = [re.search(r'eprint += \{([\d.]+)}', entry)[1] for entry in entries]
    assert sorted(found) == sorted(set(linked)) and len(found) == 4
    for entry in entries:
        assert entry.count('{') == entry.count('}')
        assert all(re.search(rf'^  {key} += {{', entry, re.M) for key in ('author', 'year'))


# ------------------------------------------------------------------- figures
@pytest.fixture(scope='module')
def figures():
    """The module that draws the figures."""
    sys.path.append(str(ROOT / 'docs'))
    try:
        return importlib.import_module('figures')
    finally:
        sys.path.remove(str(ROOT / 'docs'))


def seen_from(layer, token, side=14, dims=24) -> set:
    """Tokens of the input on which the output of a layer at one token depends."""
    x = torch.randn(1, side, side, dims, dtype=torch.float64, requires_grad=True)
    layer.double().eval()(x)[0, token[0], token[1]].sum().backward()
    return {tuple(t) for t in (x.grad[0].abs().sum(-1) > 0).nonzero().tolist()}


def test_figures_show_what_the_layers_see(figures):
    """The drawn tokens are those from which a gradient comes."""
    local = WindowAttention(24, 2, (7, 7))
    assert seen_from(local, (4, 5)) == figures.window_of((4, 5), (7, 7))
    iwsa = WindowAttention(24, 2, (7, 7), rel_pos_bias=False, v_kernel=3)
    seen = figures.window_of((4, 6), (7, 7)) | figures.around((4, 6), 3)
    assert seen_from(iwsa, (4, 6)) == seen and (4, 7) in seen
    glance_gaze = WindowAttention(24, 2, (7, 7), dilated=True, v_kernel=3)
    seen = figures.window_of((6, 5), (7, 7), dilated=True) | figures.around((6, 5), 3)
    assert seen_from(glance_gaze, (6, 5)) == seen and len(seen) == 49 + 8

    from gcvit_mm.backbones.gpvit import StripeAttention

    stripes = figures.window_of((5, 8), (14, 2)) | figures.window_of((5, 8), (2, 14))
    assert seen_from(StripeAttention(24, 2), (5, 8)) == stripes and len(stripes) == 28 + 28 - 4


def test_ssa_and_group_propagation_see_everything():
    """The other two panels: every token depends on the whole map."""
    from gcvit_mm.backbones.gpvit import GPBlock
    from gcvit_mm.backbones.scalablevit import ScalableAttention

    assert len(seen_from(ScalableAttention(24, 2, 2, 1.5), (0, 3))) == 14 * 14
    parameters = inspect.signature(GPBlock.__init__).parameters
    assert list(parameters)[1:5] == ['embed_dims', 'num_groups', 'num_heads', 'mlp_ratio']
    block = GPBlock(24, 8, 2, 4.0, 'mixer', dict(type='LN'), dict(type='BN'), 0.0, 0.0)
    assert len(seen_from(block, (0, 3))) == 14 * 14


def test_figures_are_drawn_and_used(figures, tmp_path):
    """Every figure can be drawn, is committed, small, and shown on a page."""
    text = ''.join(page.read_text() for page in PAGES)
    for name in figures.FIGURES:
        figures.save(name, tmp_path / f'attend_{name}.png')
        drawn = (tmp_path / f'attend_{name}.png').read_bytes()
        kept = (ROOT / f'docs/images/attend_{name}.png').read_bytes()
        assert drawn[:8] == kept[:8] == b'\x89PNG\r\n\x1a\n'
        assert drawn[16:24] == kept[16:24], f'{name}: drawn in another size; run docs/figures.py'
        assert len(kept) < 150_000
        assert f'images/attend_{name}.png' in text
