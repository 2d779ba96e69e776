"""``python -m gcvit_mm ops``: what is used, and a stand-in in mmcv's own folder."""

import sys
from typing import List

from .installed import advice, install, installed, mmcv_folder, remove
from .standin import OPERATORS, built_for_gpus, extension, mode

USAGE = """usage: python -m gcvit_mm ops [install | remove]

  ops           whose operators mmcv.ops uses
  ops install   let every program use those of gcvit_mm: writes _ext.py into mmcv's folder
  ops remove    take that file away"""


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


def main(arguments: List[str]) -> int:
    """Run a command; return its status."""
    if arguments not in ([], ['install'], ['remove']):
        asked = arguments in (['-h'], ['--help'])
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        if arguments:
            print(install() if arguments == ['install'] else remove())
        else:
            print('\n'.join(lines()))
    except (RuntimeError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0
