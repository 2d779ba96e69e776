"""The private names of mmengine that this package uses are those of one table, and still there."""

import ast
import inspect
import re
import sys

import mmengine
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import build_functions
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

from support.running import ROOT

DOC = ROOT / 'docs/architecture.md'
strategies = pytest.importorskip('mmengine._strategy')
BaseStrategy, DDPStrategy = strategies.BaseStrategy, strategies.DDPStrategy
ROW = re.compile(r'^\| `(?P<name>[\w.]+)` \| (?P<file>[^|]+) \| (?P<use>[^|]+) \|$', re.M)


def assigns(cls, *names):
    """Whether the constructor of a class sets attributes."""
    source = inspect.getsource(cls.__init__)
    return all(re.search(rf'self\.{name}\b[^=\n]*= ', source) for name in names)


def takes(function, *names):
    """Whether a function has these parameters, in this order, and no more."""
    return tuple(inspect.signature(function).parameters) == names


def model_hub():
    """Source of mmpretrain's hub of models."""
    return inspect.getsource(pytest.importorskip('mmpretrain.apis.model'))


CHECKS = {
    'Runner._load_from': lambda: (
        assigns(Runner, '_load_from') and assigns(FlexibleRunner, '_load_from')
    ),
    'Runner._resume': lambda: assigns(Runner, '_resume') and assigns(FlexibleRunner, '_resume'),
    'Runner._train_loop': lambda: assigns(Runner, '_train_loop'),
    'BaseLoop._decide_current_val_interval': lambda: all(
        takes(loop._decide_current_val_interval, 'self')
        for loop in (EpochBasedTrainLoop, IterBasedTrainLoop)
    ),
    'Runner._randomness_cfg': lambda: assigns(Runner, '_randomness_cfg'),
    'CheckpointHook._save_checkpoint': lambda: takes(
        CheckpointHook._save_checkpoint, 'self', 'runner'
    ),
    'CheckpointHook._save_checkpoint_with_step': lambda: takes(
        CheckpointHook._save_checkpoint_with_step, 'self', 'runner', 'step', 'meta'
    ),
    'CheckpointHook._save_best_checkpoint': lambda: takes(
        CheckpointHook._save_best_checkpoint, 'self', 'runner', 'metrics'
    ),
    'CheckpointHook.file_backend': lambda: (
        'self.file_backend.remove(' in inspect.getsource(CheckpointHook)
    ),
    'mkldnn._is_mkldnn_bf16_supported': lambda: (
        torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False)
    ),
    'DefaultOptimWrapperConstructor._validate_cfg': lambda: takes(
        DefaultOptimWrapperConstructor._validate_cfg, 'self'
    ),
    'DDPStrategy._wrap_model': lambda: takes(DDPStrategy._wrap_model, 'self', 'model'),
    'BaseStrategy._init_model_weights': lambda: takes(
        BaseStrategy._init_model_weights, 'self', 'model'
    ),
    # both are replaced already: what is read is the source
    'Config._get_cfg_path': lambda: all(
        text in inspect.getsource(sys.modules[Config.__module__])
        for text in ('def _get_cfg_path(cfg_path: str,', 'scope = Config._get_cfg_path(')
    ),
    'ModelHub._register_mmpretrain_models': lambda: (
        model_hub().count('cls._register_mmpretrain_models()') == 1
        and 'ModelHub._register_mmpretrain_models()' in model_hub()
    ),
    'ModelHub._models_dict': lambda: 'cls._models_dict[model_name] = metainfo' in model_hub(),
    'Config._cfg_dict': lambda: isinstance(Config(dict(a=1))._cfg_dict, dict),
    'build_from_cfg': lambda: (
        {'cfg', 'registry', 'args', 'obj_type'}
        <= set(build_functions.build_from_cfg.__code__.co_varnames)
    ),
    'BaseModel._run_forward': lambda: takes(BaseModel._run_forward, 'self', 'data', 'mode'),
    'BaseDataPreprocessor._device': lambda: assigns(BaseDataPreprocessor, '_device'),
    'DataLoader._get_iterator': lambda: (
        inspect.getsource(DataLoader.__iter__).count('self._get_iterator()') == 2
    ),
    # before 0.10.12 its _iterator is replaced instead (compat.begin_anew)
    '_InfiniteDataloaderIterator.skip_iter': lambda: (
        hasattr(_InfiniteDataloaderIterator, 'skip_iter')
        or assigns(_InfiniteDataloaderIterator, '_iterator')
    ),
}


# Of torch and torchvision, which stay when mmengine changes.
TORCH = {
    '_C',  # with the following, of planning, which runs models without memory
    '_buffers',
    '_cdata',
    '_index_put_impl_',
    '_len_torch_function_stack',
    '_local_scalar_dense',
    '_parameters',
    '_scaled_dot_product_efficient_attention',
    '_schema',
    '_shape_as_tensor',
    '_softmax_backward_data',
    '_unique2',
    '_BatchNorm',
    '_deform_conv2d_backward',
    '_get_allowed_globals',
    '_indices_of_rank',  # mmengine < 0.10.12, see compat.begin_anew
    '_iterator',
    '_load_from_state_dict',
    '_modules',
    '_replace',  # of every NamedTuple
    '_asdict',
    '_roi_align_backward',
    '_compiled',  # of gcvit_mm.ops
}


def rows():
    """Names of the table, and the files that use them."""
    return {row['name']: row['file'].split(', ') for row in ROW.finditer(DOC.read_text())}


def check(name):
    """Fail clearly where a release has changed a name."""
    try:
        found = CHECKS[name]()
    except AttributeError:
        found = False
    assert found, (
        f'mmengine {mmengine.__version__} has changed {name}: {", ".join(rows()[name])} relies on '
        f'it (table in {DOC.name})'
    )


@pytest.mark.parametrize('name', CHECKS)
def test_name_is_there(name):
    """This release has it as the code expects it."""
    check(name)


def test_change_is_named(monkeypatch):
    """What a changed release would look like."""
    monkeypatch.setattr(CheckpointHook, '_save_best_checkpoint', lambda self, runner: None)
    with pytest.raises(
        AssertionError, match='has changed CheckpointHook._save_best_checkpoint: .*saving'
    ):
        check('CheckpointHook._save_best_checkpoint')
    monkeypatch.delattr(CheckpointHook, '_save_best_checkpoint')
    with pytest.raises(AssertionError, match='has changed CheckpointHook._save_best_checkpoint'):
        check('CheckpointHook._save_best_checkpoint')


def test_table_is_complete():
    """Every private attribute of something else is in the table, and the table has no others."""
    assert set(rows()) == set(CHECKS)
    for name, files in rows().items():
        for file in files:
            attribute = name.rpartition('.')[2]
            assert attribute in (ROOT / 'gcvit_mm' / file).read_text(), (name, file)
    known = {name.rpartition('.')[2] for name in CHECKS} | TORCH
    for path in sorted((ROOT / 'gcvit_mm').rglob('*.py')):
        tree = ast.parse(path.read_text())
        own = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        own |= {
            n.attr
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and is_self(n.value)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match('_(?!_)', node.attr):
                ours = node.attr in own and is_self(node.value)
                where = f'{path.name}:{node.lineno}: {node.attr}'
                assert ours or node.attr in known, f'{where} is not in the table of {DOC.name}'


def is_self(node):
    """Whether an expression is the object or class of a method."""
    return isinstance(node, ast.Name) and node.id in ('self', 'cls')
