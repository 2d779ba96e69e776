#!/usr/bin/env bash
#
# Makes .venv-openmmlab ready for 'make test-openmmlab': the last open-mmlab releases and torch 2.1
# in the versions of constraints-openmmlab.txt, mmcv's operators compiled for the CPU, and this
# project (editable). Does nothing when it is ready, and goes on where an interrupted run stopped.
#
#   PYTHON=/path/to/python3.11   the Python to use (3.8 to 3.11; default: the first found)
#   MAX_JOBS=2                   parallel compiler jobs (default: one per core)
#
# What pip and the compiler say is in .venv-openmmlab/setup.log.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$root/.venv-openmmlab
py=$venv/bin/python
log=$venv/setup.log
stamp=$venv/setup.stamp

# The caller's Python settings must not leak in. pip's own configuration stays in force.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}
fits() { # $1 runs, is 3.8 to 3.11, and has what a virtual environment and a compiler need
    "$1" -I -c '
import ensurepip, os, sys, sysconfig, venv
assert (3, 8) <= sys.version_info[:2] <= (3, 11)
assert os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))' 2>/dev/null
}
wanted_state() { cat constraints-openmmlab.txt tools/setup_openmmlab.sh | cksum; }
install() {
    "$py" -m pip install --constraint constraints-openmmlab.txt "$@" >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "pip could not install $* (whole log: $log); 'make test-openmmlab' tries again"
    }
}
ops_work() {
    "$py" -I -c '
import torch
from mmcv.ops import nms
nms(torch.zeros(1, 4), torch.ones(1), 0.5)' >>"$log" 2>&1
}

[ "$(cat "$stamp" 2>/dev/null)" != "$(wanted_state)" ] || ! fits "$py" || exit 0

if ! fits "$py"; then
    host=
    for name in ${PYTHON:-python3.11 python3.10 python3.9 python3.8 python3}; do
        ! fits "$name" || { host=$name && break; }
    done
    [ -n "$host" ] || die "torch 2.1 needs Python 3.8 to 3.11 with venv and C headers;" \
        "name one: make test-openmmlab PYTHON=/path/to/python3.11"
    command -v c++ >/dev/null || die "no C++ compiler (c++) (Debian/Ubuntu: apt install g++)"
    say "making .venv-openmmlab with $host"
    rm -rf "$venv"
    "$host" -m venv "$venv" || die "$host could not make .venv-openmmlab"
fi
rm -f "$stamp"
: >"$log"
PATH=$venv/bin:$PATH
# What a killed pip was installing has no RECORD; pip must install it anew.
for info in "$venv"/lib/python3*/site-packages/*.dist-info; do
    [ -e "$info/RECORD" ] || rm -rf "$info"
done

say "installing torch 2.1 and the open-mmlab packages (about 5 GB, most of it CUDA libraries)"
install pip setuptools wheel ninja packaging
install torch torchvision
install mmengine mmdet mmsegmentation mmpretrain ftfy regex \
    pytest pytest-xdist hypothesis timm tensorboard
# opencv-python needs libGL, which servers lack; the headless build of the same module does not.
"$py" -I -c 'import cv2' 2>/dev/null ||
    install --force-reinstall --no-deps opencv-python-headless
if ! ops_work; then
    say "compiling mmcv's operators (25 minutes of one core)"
    # No cache: it does not know which torch a wheel was compiled for.
    export MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}
    MMCV_WITH_OPS=1 FORCE_CUDA=0 CUDA_VISIBLE_DEVICES='' install --no-build-isolation \
        --no-cache-dir --no-binary mmcv --force-reinstall --no-deps mmcv
    ops_work || die "the operators of mmcv do not work (log: $log)"
fi
install --no-build-isolation --no-deps --editable .
"$py" -I -c 'import mmdet, mmpretrain, mmseg' >>"$log" 2>&1 ||
    die "the packages cannot be imported (log: $log)"
wanted_state >"$stamp"
say "done: .venv-openmmlab is ready"
