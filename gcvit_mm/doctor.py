"""What is installed, whether it fits together, and the command that fixes what does not.

Only the standard library is imported here, everything that is looked at in a process of its own:
this must run where something is missing or broken.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

PACKAGE = 'gcvit_mm'
# Module: its distribution in each flavour. The modules have the same names: one flavour only.
FLAVOURS = ('onedl', 'openmmlab')
MODULES = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
# The same module with compiled operators, or without.
TWINS = {'mmcv-lite': 'mmcv'}
NEEDED = ('mmengine', 'mmcv')
OPS = 'mmcv._ext'
USE = dict(mmdet='detection', mmseg='segmentation', mmpretrain='classification')
# torch from this version on works with numpy 2.
NUMPY_2 = (2, 3)
# Imports modules one after another and says what came of it, line by line.
PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        result = {'version': str(getattr(module, '__version__', ''))}
        if name == 'torch':
            result['cuda'] = module.version.cuda or module.version.hip or ''
            result['gpus'] = module.cuda.device_count() if module.cuda.is_available() else 0
        if name == 'mmcv._ext':
            result['cuda'] = module.get_compiling_cuda_version()
            result['compiled'] = bool(getattr(module, '__file__', None))
    except BaseException as error:
        text = ' '.join(str(error).split()) or 'no reason given'
        result = {'error': type(error).__name__ + ': ' + text}
    print('PROBE ' + json.dumps([name, result]), flush=True)
"""


class Row(NamedTuple):
    """A line of the report.

    Args:
        name: What was looked at.
        version: What is there.
        problem: What is wrong with it; empty if nothing is.
        fix: The command, or the advice, that fixes it.
        note: Worth saying, and not wrong.
    """

    name: str
    version: str
    problem: str = ''
    fix: str = ''
    note: str = ''


def installed(name: str) -> Optional[str]:
    """Version of an installed distribution, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except Exception:  # half-installed ones raise all kinds of errors
        return None


def requirements() -> Tuple[Dict[str, Dict[str, Any]], str]:
    """What the package asks for.

    Returns:
        By extra ('' for none) and distribution the ``packaging`` requirement; and the Python.
        Both empty where the package is not installed, or ``packaging`` is not.
    """
    found: Dict[str, Dict[str, Any]] = {extra: {} for extra in ('', *FLAVOURS)}
    try:
        from packaging.requirements import Requirement

        for line in importlib.metadata.requires(PACKAGE) or []:
            requirement = Requirement(line)
            for extra, wanted in found.items():
                marker = requirement.marker
                if (marker is None and not extra) or (
                    marker and extra and marker.evaluate({'extra': extra})
                ):
                    wanted[requirement.name] = requirement
        return found, importlib.metadata.metadata(PACKAGE)['Requires-Python'] or ''
    except Exception:
        return {extra: {} for extra in found}, ''


def probe(names: List[str], timeout: float = 600) -> Dict[str, Dict[str, Any]]:
    """Import modules in a process of its own; a new one where a module kills it.

    Args:
        names: The modules.
        timeout: Seconds for all of them.

    Returns:
        By module 'version', or 'error'; 'cuda' and 'gpus' of torch; of mmcv's ops 'cuda', and
        'compiled', which is false for those of 'gcvit_mm ops install'.
    """
    results: Dict[str, Dict[str, Any]] = {}
    while len(results) < len(names):
        rest = [name for name in names if name not in results]
        status: Any
        try:
            done = subprocess.run(
                [sys.executable, '-c', PROBE, *rest],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=timeout,
            )
            output, status = done.stdout, f'status {done.returncode}'
        except subprocess.TimeoutExpired as late:
            output, status = late.stdout or b'', f'no answer within {timeout:g} s'
        except OSError as error:
            output, status = b'', str(error)
        for line in output.decode(errors='replace').splitlines():
            if line.startswith('PROBE '):
                name, result = json.loads(line[len('PROBE ') :])
                results[name] = result
        died = next((name for name in rest if name not in results), None)
        if died:
            results[died] = dict(error=f'importing it ends Python ({status})')
    return results


def fits(requirement: Any, version: Optional[str]) -> bool:
    """Whether a version is in the range of a requirement; local parts (+cpu) do not count."""
    if requirement is None or not version:
        return True
    try:
        return requirement.specifier.contains(version.split('+')[0], prereleases=True)
    except Exception:  # a version that is none
        return False


def spec(requirement: Any, name: str) -> str:
    """A requirement as pip takes it on a command line."""
    return f"'{name}{requirement.specifier}'" if requirement is not None else name


def check_python(wanted: str) -> Row:
    """The Python that runs this."""
    version = platform.python_version()
    try:
        from packaging.specifiers import SpecifierSet

        good = SpecifierSet(wanted).contains(version, prereleases=True)
    except Exception:
        good = True
    return Row('Python', version, '' if good else f'{PACKAGE} needs {wanted}', 'another Python')


def check_torch(wanted: Dict[str, Any], probes: Dict[str, Dict[str, Any]]) -> List[Row]:
    """torch, its CUDA, torchvision and numpy."""
    rows: List[Row] = []
    torch_is = release(probes['torch'].get('version', ''))
    for name in ('numpy', 'torch'):
        found, requirement = probes[name], wanted.get(name)
        version = found.get('version') or installed(name) or ''
        fix = f'pip install {spec(requirement, name)}'
        if 'error' in found:
            problem = found['error'] if installed(name) else 'not installed'
            if installed(name):
                fix = f'pip install --force-reinstall {name}=={version.split("+")[0]}'
            rows.append(Row(name, version, problem, fix))
        elif not fits(requirement, version):
            rows.append(Row(name, version, f'{PACKAGE} needs {requirement}', fix))
        elif name == 'numpy' and release(version) >= (2, 0) and () < torch_is < NUMPY_2:
            problem = f'torch {".".join(map(str, torch_is))} was built for numpy 1'
            rows.append(Row(name, version, problem, "pip install 'numpy<2'"))
        else:
            rows.append(Row(name, version))
    torch = probes['torch']
    if 'version' in torch:
        gpus = torch.get('gpus', 0)
        note = '' if gpus else 'no GPU is seen: everything runs on the CPU'
        if not gpus and os.path.exists('/dev/nvidia0'):
            note = 'there is a GPU, but this torch cannot use it (a CPU build, or an old driver)'
        rows.append(Row('CUDA of torch', torch.get('cuda') or 'none', note=note))
    found = probes['torchvision']
    version = installed('torchvision') or found.get('version', '')
    problem = found.get('error', '') if version else 'not installed'
    asked = torch_of_torchvision() if version else None
    fix = 'pip install torchvision'
    if problem and version:
        fix = f'pip install --force-reinstall --no-deps torchvision=={version.split("+")[0]}'
    if problem and 'error' in torch:
        fix = 'fix torch first, then look again'
    if asked is not None and torch.get('version') and not fits(asked, torch['version']):
        problem = f'built for torch{asked.specifier}, not {torch["version"]}'
        fix = f'pip install {spec(asked, "torch")}'
    rows.append(Row('torchvision', version, problem, fix))
    return rows


def torch_of_torchvision() -> Any:
    """The torch that the installed torchvision was built for, as it says itself."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires('torchvision') or []
        return next(r for r in map(Requirement, lines) if r.name == 'torch')
    except Exception:
        return None


def release(version: str) -> Tuple[int, ...]:
    """The first two numbers of a version."""
    numbers = version.split('+')[0].split('.')[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def check_openmmlab(
    wanted: Dict[str, Dict[str, Any]], probes: Dict[str, Dict[str, Any]]
) -> List[Row]:
    """OpenCV; mmengine, mmcv, mmdet, mmseg and mmpretrain of one flavour, and mmcv's ops."""
    there = {
        module: [flavour for flavour, name in zip(FLAVOURS, names) if installed(actual(name))]
        for module, names in MODULES.items()
    }
    counts = {f: sum(found == [f] for found in there.values()) for f in FLAVOURS}
    flavour = max(FLAVOURS, key=lambda f: counts[f])
    index = FLAVOURS.index(flavour)
    rows = [check_opencv(probes['cv2'])]
    for module, names in MODULES.items():
        name, other = actual(names[index]), actual(names[1 - index])
        requirement: Any = wanted[flavour].get(names[index])
        found = probes[module]
        version = installed(name) or found.get('version', '')
        install = f'pip install {spec(requirement, names[index])}'
        if name != names[index]:  # from pip it is source: the one without operators instead
            install = f'pip uninstall -y {name} && {install}'
        problem = fix = note = ''
        if len(there[module]) == 2:
            problem = f'{name} and {other} are both installed, and both are {module}'
            fix = f'pip uninstall -y {name} {other} && {install}'
        elif name in TWINS.values() and installed(names[index]):
            problem = f'{name} and {names[index]} are both installed, and both are {module}'
            fix = f'pip uninstall -y {names[index]} {install[len("pip uninstall -y ") :]}'
        elif there[module] == [FLAVOURS[1 - index]]:
            version = installed(other) or ''
            problem = f'{other} is of another flavour than the rest ({flavour})'
            fix = f'pip uninstall -y {other} && {install}'
        elif not version and 'error' not in found:
            problem, fix = 'no version', install
        elif not version and not_found(found['error'], module):
            if module in NEEDED:
                problem, fix = 'not installed', install
            else:
                note = f'not installed; {USE[module]} needs it: {install}'
        elif not fits(requirement, version):
            problem, fix = f'{PACKAGE} needs {name}{requirement.specifier}', install
        elif 'error' in found:
            again = f'pip install --force-reinstall --no-deps {name}=={version}'
            above = any(row.problem for row in rows)
            problem, fix = found['error'], 'fix what stands above' if above else again
        label = name if there[module] and not there[module] == [FLAVOURS[1 - index]] else module
        rows.append(
            Row(module if label == module else f'{module} ({label})', version, problem, fix, note)
        )
        if module == 'mmcv' and 'error' not in found:
            rows.append(check_ops(probes, name, version))
    return rows


def actual(name: str) -> str:
    """The distribution that is there of those that are the same module."""
    twin = TWINS.get(name, '')
    return twin if twin and installed(twin) else name


def check_opencv(found: Dict[str, Any]) -> Row:
    """OpenCV, which mmcv reads images with. Two distributions of it are the same module."""
    version = found.get('version') or installed('opencv-python') or ''
    fix = 'pip install --force-reinstall --no-deps opencv-python-headless'
    if version:
        fix += f'=={version}'
    return Row('OpenCV', version, found.get('error', ''), fix)


def check_ops(probes: Dict[str, Dict[str, Any]], name: str, version: str) -> Row:
    """mmcv's compiled ops. Where they are missing, those of gcvit_mm stand in.

    Args:
        probes: What imports gave.
        name: Distribution of mmcv.
        version: Its version.
    """
    title, found = 'ops of mmcv', probes[OPS]
    error, built = found.get('error', ''), found.get('cuda', '')
    if 'error' in probes['torch'] and error:
        return Row(title, '', error, 'fix torch first, then look again')
    if not error and not found.get('compiled'):
        return Row(title, 'gcvit_mm', note="by 'ops install', for every program")
    if not error and built != 'not available':
        return Row(title, f'CUDA {built}')
    if not error:
        gpus = probes['torch'].get('gpus', 0)
        return Row(title, 'CPU', note="on GPUs gcvit_mm's are used" if gpus else '')
    if not_found(error, OPS):
        note = "gcvit_mm's are used; in programs that import it too late: "
        return Row(title, 'none', note=note + f'python -m {PACKAGE} ops install')
    if 'undefined symbol' in error:
        symbol = error.split('undefined symbol:')[-1].strip()
        error = f'built for another torch (undefined symbol {symbol})'
    # pip's cache of built wheels does not know what torch they were built for
    fix = f'pip install --no-cache-dir --force-reinstall --no-deps {name}=={version.split("+")[0]}'
    if name in TWINS.values():
        fix = f'pip uninstall -y mmcv && pip install mmcv-lite=={version.split("+")[0]}'
    return Row(title, 'broken', f"{error}; gcvit_mm's are used instead", fix)


def not_found(error: str, module: str) -> bool:
    """Whether an import failed because there is no such module (and not one that it needs)."""
    return error.startswith('ModuleNotFoundError') and f"'{module}'" in error


def diagnose() -> List[Row]:
    """Look at everything."""
    wanted, python = requirements()
    names = ['numpy', 'torch', 'torchvision', 'cv2', 'mmengine', 'mmcv', OPS]
    probes = probe([*names, 'mmdet', 'mmseg', 'mmpretrain'])
    rows = [check_python(python), *check_torch(wanted[''], probes)]
    rows += check_openmmlab(wanted, probes)
    if not wanted['']:
        install = 'pip install packaging && pip install --no-deps --no-build-isolation -e .'
        rows.append(
            Row(PACKAGE, installed(PACKAGE) or '', 'its requirements cannot be read', install)
        )
    else:
        rows.append(Row(PACKAGE, installed(PACKAGE) or ''))
    return rows


def show(rows: List[Row]) -> None:
    """Print the report: a table of rich, or plain lines where there is no rich."""
    state = [row.problem or row.note or 'ok' for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table('what', 'version', 'state')
        for row, text in zip(rows, state):
            style = 'red' if row.problem else 'yellow' if row.note else 'green'
            table.add_row(Text(row.name), Text(row.version or '-'), Text(text, style=style))
        Console().print(table)
    except ImportError:
        for row, text in zip(rows, state):
            print(f'{row.name:28} {row.version or "-":16} {text}')
    wrong = [row for row in rows if row.problem]
    for row in wrong:
        print(f'error: {row.name}: {row.problem}')
        if row.fix:
            print(f'  fix: {row.fix}')
    print(f'{len(wrong)} problem(s)' if wrong else 'everything fits together')


def main() -> int:
    """Report; return 0 when nothing is wrong and 1 otherwise."""
    rows = diagnose()
    show(rows)
    return int(any(row.problem for row in rows))


if __name__ == '__main__':
    sys.exit(main())
