"""What ``python -m gcvit_mm ops`` says."""

from typing import List

from .installed import advice, installed, mmcv_folder
from .standin import OPERATORS, built_for_gpus, extension, mode


def lines() -> List[str]:
    """Whose operators are used on CPUs and GPUs, and what stands in mmcv's folder."""
    use = mode()
    if mmcv_folder() is None:
        return ['mmcv is not installed: pip install onedl-mmcv']
    import mmcv

    compiled = extension()._compiled
    kind = 'none'
    if compiled is not None:
        kind = f'compiled, {compiled.get_compiling_cuda_version()}'
        kind = kind if built_for_gpus(compiled) else 'compiled, CPU only'
    rows = [
        f'GCVIT_MM_OPS        {use}',
        f'mmcv                {mmcv.__version__} ({mmcv_folder()})',
        f'its operators       {kind}' + (' or not looked for' if use == 'torch' else ''),
        f'_ext.py in mmcv     {"installed" if installed() else "not installed"}',
        '',
        f'{"operator":32} {"CPU":28} GPU',
    ]
    for name, (module, cpu, gpu) in OPERATORS.items():
        if module != 'info':
            there = compiled is not None and hasattr(compiled, name)
            gpu = gpu if there and compiled and built_for_gpus(compiled) else ()
            rows.append(
                f'{name:32} {whose(cpu if there else (), there, use):28} {whose(gpu, there, use)}'
            )
    others = 'mmcv' if compiled is not None else f'none; to get them: {advice()}'
    return [*rows, f'{"every other":32} {others}']


def whose(types: tuple, there: bool, use: str) -> str:
    """Whose operator is used on a device, given the types left to compiled ones."""
    if there and use == 'compiled':
        return 'mmcv'
    return f'mmcv ({", ".join(types)})' if types else 'gcvit_mm'
