"""Running a tool inside this process: what it prints, and nothing of it left behind."""

import contextlib
import functools
import gc
import importlib
import importlib.util
import io
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Callable, Dict, Iterator, List, Tuple

import cv2
import mmengine.config.utils
import mmengine.device.utils as devices
import numpy as np
import torch
from mmengine.dataset import base_dataset
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader
from mmengine.utils import ManagerMixin
from yapf.yapflib import yapf_api

from gcvit_mm.cli import run_tool
from gcvit_mm.layers import recompute

ROOT = Path(__file__).resolve().parents[2]


# mmengine reads all metafiles of a zoo for each base from it, and yapf takes half a second to lay
# out a config, for every checkpoint.
mmengine.config.utils.load = functools.lru_cache(maxsize=None)(mmengine.config.utils.load)
yapf_api.FormatCode = lambda code, **options: (code, True)
recompute.SMALL = 0  # also in processes that are forked, see conftest.py
# Every data set collects the garbage of the whole process, which here is that of all tests before.
base_dataset.gc = SimpleNamespace(collect=lambda: 0)


@functools.lru_cache(maxsize=None)
def tool(name: str) -> ModuleType:
    """A program of tools/ as a module; ``import test`` would find Python's own."""
    spec = importlib.util.spec_from_file_location(f'tool_{Path(name).stem}', ROOT / 'tools' / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(name: str) -> Callable:
    """Main function of a program of tools/, or of a command of ``python -m gcvit_mm``."""
    if name.endswith('.py'):
        return tool(name).main
    return importlib.import_module(f'gcvit_mm.cli.{name.replace("-", "_")}').main


@contextlib.contextmanager
def captured() -> Iterator[io.BytesIO]:
    """Everything that is written to standard output and error, by whatever way, in its order."""
    streams, content = (sys.stdout, sys.stderr), io.BytesIO()
    for stream in streams:
        stream.flush()
    saved = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            # left open: what the tool has built may hold them
            sys.stdout, sys.stderr = (
                open(n, 'w', buffering=1, encoding='utf-8', closefd=False) for n in (1, 2)
            )
            yield content
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = streams
            for number, old in zip((1, 2), saved):
                os.dup2(old, number)
                os.close(old)
            file.seek(0)
            content.write(file.read())


def managers(cls: type = ManagerMixin) -> Iterator[type]:
    """Classes whose instances mmengine keeps by name for as long as a process lives."""
    for kind in cls.__subclasses__():
        yield kind
        yield from managers(kind)


@contextlib.contextmanager
def fresh_names() -> Iterator[None]:
    """No logger, scope, message hub or visualizer of others; those of others come back."""
    kept = {cls: dict(cls._instance_dict) for cls in managers()}
    schemes = dict(CheckpointLoader._schemes)
    try:
        for cls in kept:
            cls._instance_dict.clear()
        yield
    finally:
        for logger in MMLogger._instance_dict.values():
            for handler in logger.handlers:
                handler.close()
        for cls in managers():  # those that the tool has imported, too
            cls._instance_dict.clear()
            cls._instance_dict.update(kept.get(cls, {}))
        CheckpointLoader._schemes.clear()
        CheckpointLoader._schemes.update(schemes)


@contextlib.contextmanager
def fresh_process(words: List[str], env: Dict[str, str]) -> Iterator[None]:
    """Working directory, arguments, environment and threads as a process has them; put back."""
    folder, environment = os.getcwd(), dict(os.environ)
    arguments, paths = sys.argv, list(sys.path)
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    try:
        os.chdir(ROOT)
        os.environ.update(env)
        sys.argv = [str(ROOT / 'tools' / words[0]), *words[1:]]
        torch.set_num_threads(1)  # several processes share few cores
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv, sys.path[:] = arguments, paths
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)


@contextlib.contextmanager
def fresh_numbers() -> Iterator[None]:
    """What is drawn, and how torch computes; put back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    exact, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(exact)
        torch.backends.cudnn.benchmark = benchmark


@contextlib.contextmanager
def without_gpu() -> Iterator[None]:
    """As where there is no GPU; torch itself asks the environment only once."""
    found = torch.cuda.is_available, torch.cuda.device_count, devices.DEVICE
    try:
        torch.cuda.is_available, torch.cuda.device_count = (lambda: False), (lambda: 0)
        devices.DEVICE = 'cpu'
        yield
    finally:
        torch.cuda.is_available, torch.cuda.device_count, devices.DEVICE = found


def run_inside(words: List[str], env: Dict[str, str], gpu: bool) -> Tuple[str, int]:
    """Run a tool as its program does; return what it printed and its status."""
    status = 0

    def main() -> None:
        nonlocal status
        status = entry(words[0])(words[1:]) or 0

    with contextlib.ExitStack() as stack:
        stack.enter_context(fresh_process(words, env))
        stack.enter_context(fresh_names())
        stack.enter_context(fresh_numbers())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(contextlib.nullcontext() if gpu else without_gpu())
        output = stack.enter_context(captured())
        try:
            run_tool(main)
        except SystemExit as error:
            status = error.code or 0
    gc.collect()  # models are large
    gc.freeze()  # what is left stays, and need not be looked at again
    return output.getvalue().decode(errors='replace'), status
