"""Finding, downloading and reading checkpoint files."""

import argparse
import codecs
import os.path as osp
import pickle
from collections import Counter
from typing import Any, Dict

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..compat import load_weights_only
from ..errors import CheckpointError
from .bounds import check_packed, check_unpacked
from .downloading import download

# Wrappers around the weights, in the order in which they are looked for.
EMA_KEYS = ('state_dict_ema', 'model_ema')
STATE_KEYS = ('state_dict', 'model', 'module')  # the last: DeepSpeed's
# Prefixes that training wrappers put before every key.
WRAPPER_PREFIXES = ('module.', '_orig_mod.')
# What mmengine's loss histories name of their class.
HISTORY_METHODS = ('min', 'max', 'current', 'mean')


def local_path(source: str) -> str:
    """Return the path of a checkpoint on this machine, downloading it where it is an address.

    Args:
        source: Path, or http(s) address.

    Raises:
        CheckpointError: If there is no such file, or it cannot be downloaded.
    """
    if source.startswith(('http://', 'https://')):
        return download(source)
    if not osp.isfile(source):
        raise CheckpointError(f'checkpoint {source} does not exist: check the path')
    return source


def _harmless() -> Dict[str, Any]:
    """What trainers store beside the weights and no file can misuse, by its name in a file."""
    things: list = [argparse.Namespace, HistoryBuffer, np.ndarray, np.dtype]
    things += [bytearray, complex, Counter, set, slice, torch.device]  # as newer torch does
    things += {type(np.dtype(code)) for code in '?' + np.typecodes['AllInteger'] + 'efd'}
    named = {f'{thing.__module__}.{thing.__qualname__}': thing for thing in things}
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1, numpy 2
        named[f'{module}._reconstruct'] = np.zeros(1).__reduce__()[0]
        named[f'{module}.scalar'] = np.float64(0).__reduce__()[0]
    named['_codecs.encode'] = codecs.encode  # bytes within arrays
    # Not getattr itself: with it a file can reach any function.
    named['builtins.getattr'] = _method_of_history
    return named


def _method_of_history(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in a checkpoint: mmengine's loss histories name their methods."""
    if owner is not HistoryBuffer or name not in HISTORY_METHODS:
        raise pickle.UnpicklingError(f'weights_only: an attribute of {owner} is asked for')
    return getattr(owner, name)


def read_checkpoint(source: str, trust_checkpoint: bool = False) -> Dict[str, Any]:
    """Read a checkpoint file to the CPU.

    Args:
        source: Path, or http(s) address.
        trust_checkpoint: Also read files that hold Python objects. Such a file can run any
            code when it is read: only for files whose origin is known.

    Raises:
        CheckpointError: If the file is missing, damaged, no checkpoint, or holds objects.
    """
    path = local_path(source)
    try:
        if trust_checkpoint:
            checkpoint = torch.load(path, map_location='cpu', weights_only=False)
        else:
            check_packed(path)
            checkpoint = load_weights_only(path, _harmless())
            check_unpacked(checkpoint, path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if not _is_saved(path):
            raise CheckpointError(
                f'checkpoint {path} is damaged or no checkpoint: name one that a training saved, '
                'or fetch it again'
            ) from error
        if 'weights_only' in str(error).lower() and not trust_checkpoint:
            raise CheckpointError(
                f'checkpoint {path} is no plain file of weights (it holds other Python objects, '
                'or is damaged): if you trust its origin, read it with trust_checkpoint=True'
            ) from error
        raise CheckpointError(f'checkpoint {path} is damaged: fetch it again') from error
    except (ImportError, AttributeError) as error:  # only a trusted file looks for classes
        raise CheckpointError(
            f'checkpoint {path} holds an object of a class that is not here ({error}): install '
            'its package, or save the weights alone where it is'
        ) from error
    except Exception as error:  # damaged bytes may raise anything
        raise CheckpointError(
            f'checkpoint {path} is damaged or no checkpoint: fetch it again'
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'checkpoint {path} holds a {type(checkpoint).__name__} instead of weights: name '
            'the file that the training saved'
        )
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)  # mmengine runs it when a run is resumed
    return checkpoint


def _is_saved(path: str) -> bool:
    """Whether a file begins as archives and pickles do."""
    with open(path, 'rb') as file:
        return file.read(4).startswith((b'PK', b'\x80'))


def unwrap(checkpoint: Dict[str, Any], ema: bool = False) -> Dict[str, torch.Tensor]:
    """Take the weights out of whatever a trainer has saved around them.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        ema: Take the averaged weights.

    Returns:
        State dict without the prefixes of wrappers.

    Raises:
        CheckpointError: If there are no weights, or no averaged ones where they are asked for.
    """
    keys = EMA_KEYS if ema else STATE_KEYS
    if ema and 'ema_state_dict' in checkpoint:
        keys = STATE_KEYS  # mmengine swaps them: the raw weights stand under that key
    found = next((key for key in keys if isinstance(checkpoint.get(key), dict)), None)
    if ema and found is None:
        raise CheckpointError(f'no averaged weights in the checkpoint (looked for {EMA_KEYS})')
    state = checkpoint if found is None else checkpoint[found]
    named = {k: v for k, v in state.items() if isinstance(k, str)}
    state = {k: v for k, v in named.items() if isinstance(v, torch.Tensor)}
    while True:  # wrappers may be nested in any order
        prefix = next((p for p in WRAPPER_PREFIXES if any(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        # EMA buffers such as 'steps' lack the prefix and go.
        state = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if not state:
        raise CheckpointError('the checkpoint holds no weights')
    return state
