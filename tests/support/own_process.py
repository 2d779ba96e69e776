"""Programs with import paths of their own."""

import os
import subprocess
import sys

from support.running import ROOT


def python(code, **env):
    """Run a program of its own, with a package's import paths in front; its output."""
    paths = os.pathsep.join([*env.pop('paths', []), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *(code if isinstance(code, list) else ['-c', code])],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout.strip()


def last(output):
    """The last line."""
    return output.splitlines()[-1]
