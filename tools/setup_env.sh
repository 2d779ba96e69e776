#!/usr/bin/env bash
#
# Makes .venv ready for the demo and the tests: torch, the OneDL fork of the OpenMMLab packages,
# the tools of tests and docs and this project (editable), all in the versions of constraints.txt.
# Does nothing when .venv is ready, and goes on where an interrupted run stopped.
#
#   PYTHON=/path/to/python3.11   the Python to use (3.10, 3.11 or 3.12; default: the first found)
#   MAX_JOBS=2                   parallel compiler jobs (default: one per core, as memory allows)
#
# Files it leaves in .venv:
#   setup.log     what pip and the compiler said
#   setup.stamp   what .venv was made from; present only when the set-up was completed
#   cpu_ops       present when the compiled mmcv operators work on the CPU only
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$root/.venv
py=$venv/bin/python
log=$venv/setup.log
stamp=$venv/setup.stamp
cpu_ops=$venv/cpu_ops

# The caller's Python settings must not leak into .venv. pip's own configuration stays in force.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# An activated .venv must not be taken for the Python that .venv is made with.
PATH=:$PATH:
PATH=${PATH//":$venv/bin:"/:}
PATH=${PATH#:}
PATH=${PATH%:}

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}
fail() { # die, with the end of the log
    printf 'setup: the last lines of %s:\n' "$log" >&2
    tail -n 20 "$log" >&2
    die "$* (whole log: $log); 'make setup' tries again"
}

# --- Python and compiler ---------------------------------------------------------------------

python_version() { # prints 3.11 or so; fails unless $1 runs, has a fitting version, venv, headers
    "$1" -I -c '
import ensurepip, os, sys, sysconfig, venv
assert (3, 10) <= sys.version_info[:2] <= (3, 12)
assert os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

find_python() { # prints the path of the first usable Python
    local -a names=(python3 python3.12 python3.11 python3.10)
    local name path
    [ -z "${PYTHON:-}" ] || names=("$PYTHON")
    for name in "${names[@]}"; do
        while IFS= read -r path; do
            python_version "$path" >/dev/null && printf '%s\n' "$path" && return
        done < <(type -aP "$name" || true)
    done
    die "no usable Python in: ${names[*]}. Needed is 3.10, 3.11 or 3.12 with venv and C headers" \
        "(Debian/Ubuntu: apt install python3 python3-venv python3-dev)," \
        "or name one: make setup PYTHON=/path/to/python3.11"
}

check_compiler() {
    local name
    if [ -z "${CXX:-}" ]; then
        for name in c++ g++ clang++; do
            ! command -v "$name" >/dev/null || { CXX=$name && break; }
        done
    fi
    # CXX may hold more than one word, as in "ccache g++".
    # shellcheck disable=SC2086
    ${CXX:-c++} -x c++ -std=c++17 -fsyntax-only - 2>/dev/null <<<'#include <vector>' ||
        die "no working C++17 compiler (tried: ${CXX:-c++, g++, clang++})." \
            "Install one (Debian/Ubuntu: apt install g++) or set CXX"
    export CXX
}

# --- state of .venv --------------------------------------------------------------------------

wanted_state() {
    printf '%s\n' "$root" "$(python_version "$py")"
    cat constraints.txt tools/setup_env.sh | cksum
}
python_fits() { # .venv/bin/python runs, and has the version of $PYTHON if that is set
    local version
    version=$(python_version "$py") || return
    [ -z "$host" ] || [ "$version" = "$(python_version "$host")" ]
}
ready() { [ -f "$stamp" ] && python_fits && [ "$(cat "$stamp")" = "$(wanted_state)" ]; }

make_venv() {
    [ -n "$host" ] || host=$(find_python)
    [ ! -e "$venv" ] || say "replacing the unusable .venv"
    say "making .venv with $host ($(python_version "$host"))"
    rm -rf "$venv"
    "$host" -m venv "$venv" || die "$host could not make .venv; name another one with PYTHON="
}

# A package that was being installed when a run was killed has no RECORD. Let pip install it anew.
drop_half_installed() {
    local info
    for info in "$venv"/lib/python3*/site-packages/*.dist-info; do
        [ -e "$info/RECORD" ] || rm -rf "$info"
    done
}

# --- pip -------------------------------------------------------------------------------------

pip_install() {
    printf '+ pip install %s\n' "$*" >>"$log"
    "$py" -m pip install --constraint constraints.txt "$@" >>"$log" 2>&1
}

heartbeat() { # a line every 30 s for as long as this script lives
    local start=$SECONDS tick
    for ((tick = 1; ; tick++)); do
        sleep 1 >/dev/null 2>&1
        kill -0 $$ 2>/dev/null || return 0
        [ $((tick % 30)) -ne 0 ] || say "  $((SECONDS - start)) s$(awk '
            /^\+ / { done = "" }
            match($0, /\[[0-9]+\/[0-9]+\]/) { done = substr($0, RSTART + 1, RLENGTH - 2) }
            END { if (done) print ", " done " files compiled" }' "$log")"
    done
}

# --- the compiled operators of mmcv ----------------------------------------------------------

job_count() { # one compiler per core, and 2 GB of free memory for each
    local cores memory
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    memory=$(awk '/MemAvailable/ { print int($2 / 2000000) }' /proc/meminfo 2>/dev/null || true)
    [ -z "$memory" ] || [ "$memory" -ge "$cores" ] || cores=$memory
    echo $((cores > 1 ? cores : 1))
}

choose_ops() { # sets ops, what to build: cuda or cpu
    local cuda='' home='' nvcc
    ops=cpu
    [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1 || return 0
    read -r cuda home < <("$py" -I -c '
import torch
from torch.utils.cpp_extension import CUDA_HOME
if torch.cuda.is_available():
    print(torch.version.cuda, CUDA_HOME or "none")' 2>>"$log") || true
    if [ -z "$cuda" ]; then
        say "torch cannot use the GPU here (hidden, driver too old, or a CPU build of torch);"
        say "  the mmcv operators are built for the CPU"
        return 0
    fi
    nvcc=$("$home/bin/nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\).*/\1/p') || true
    cuda=${cuda%%.*}
    if [ "$nvcc" = "$cuda" ]; then
        ops=cuda
        return 0
    fi
    say "there is a GPU, but no nvcc of CUDA $cuda: the mmcv operators are built for the CPU, and"
    say "  the demo runs on the CPU. For the GPU install the CUDA toolkit $cuda.x (nvcc on PATH or set"
    say "  CUDA_HOME), then run 'make clean-env setup'. Pre-built GPU wheels of onedl-mmcv exist"
    say "  (package onedl-mim, 'mim install onedl-mmcv'), but none is listed for torch 2.11."
}

compile_mmcv() { # builds for $ops; arguments go to pip
    local status=0 beat
    local -a call=(pip_install --verbose --no-build-isolation "$@" onedl-mmcv)
    heartbeat 9>&- &
    beat=$!
    trap 'kill "$beat" 2>/dev/null || true' EXIT
    if [ "$ops" = cuda ]; then
        FORCE_CUDA=1 "${call[@]}" || status=$?
    else
        FORCE_CUDA=0 CUDA_VISIBLE_DEVICES='' "${call[@]}" || status=$?
    fi
    kill "$beat" 2>/dev/null || true
    trap - EXIT
    return "$status"
}

install_mmcv() { # arguments go to pip
    compile_mmcv "$@" && return
    if [ "$ops" = cuda ]; then
        say "the mmcv operators could not be compiled for the GPU (see $log);"
        say "  building them for the CPU"
        ops=cpu
        compile_mmcv "$@" && return
    fi
    fail "onedl-mmcv could not be compiled"
}

ops_kind() { # prints what the operators are compiled for, cuda or cpu; fails if they do not work
    "$py" -I -c '
import torch
import mmcv._ext
from mmcv.ops import get_compiling_cuda_version, nms
kind = "cpu" if get_compiling_cuda_version() == "not available" else "cuda"
device = kind if torch.cuda.is_available() else "cpu"
nms(torch.zeros(1, 4, device=device), torch.ones(1, device=device), 0.5)
print(kind)' 2>>"$log"
}

set_up_mmcv() {
    local kind
    choose_ops
    MAX_JOBS=${MAX_JOBS:-$(job_count)}
    export MAX_JOBS MMCV_WITH_OPS=1
    say "onedl-mmcv: unless pip has it in its cache, its $ops operators are compiled now." \
        "That takes about 10 minutes on 2 cores; here: $MAX_JOBS jobs"
    install_mmcv
    # pip's wheel cache knows neither the torch nor the CUDA that a wheel was built for.
    kind=$(ops_kind) || kind=broken
    if [ "$kind" = broken ] || [ "$kind,$ops" = cpu,cuda ]; then
        say "this onedl-mmcv was built for another torch or device;" \
            "compiling it afresh (10 minutes or so)"
        install_mmcv --no-cache-dir --force-reinstall --no-deps
        kind=$(ops_kind) || fail "the operators of onedl-mmcv do not work; 'make clean-env' and"
    fi
    rm -f "$cpu_ops"
    [ "$kind" = cuda ] || : >"$cpu_ops"
}

# --- main ------------------------------------------------------------------------------------

trap 'say "interrupted; the next run goes on from here"; exit 130' INT

host=
[ -z "${PYTHON:-}" ] || host=$(find_python)
! ready || exit 0

mkdir -p .setup
exec 9>.setup/lock
if command -v flock >/dev/null && ! flock -n 9; then
    say "waiting for another set-up of this checkout"
    flock 9
    ! ready || exit 0
fi

python_fits || [ -n "$host" ] || host=$(find_python)
check_compiler
python_fits || make_venv
rm -f "$stamp"
: >"$log"
PATH=$venv/bin:$PATH
drop_half_installed
"$py" -m pip --version >>"$log" 2>&1 || "$py" -m ensurepip >>"$log" 2>&1 || fail "no pip in .venv"

say "installing torch and the other packages (several GB on a machine with none of them)"
pip_install pip setuptools wheel ninja packaging || fail "pip could not install the build tools"
pip_install torch torchvision || fail "pip could not install torch"
pip_install onedl-mmengine onedl-mmdetection onedl-mmsegmentation onedl-mmpretrain \
    pytest pytest-xdist hypothesis onnx onnxruntime timm ruff mypy tensorboard \
    sphinx myst-parser furo sphinx-copybutton ||
    fail "pip could not install the packages"
# opencv-python needs libGL, which servers lack; the headless build of the same module does not.
"$py" -I -c 'import cv2' 2>/dev/null ||
    pip_install --force-reinstall --no-deps opencv-python-headless || fail "no usable OpenCV"
set_up_mmcv
pip_install --no-build-isolation --no-deps --editable . || fail "pip could not install this project"

"$py" -I -c '
import importlib.util
import mmdet, mmpretrain, mmseg
assert importlib.util.find_spec("gcvit_mm")' >>"$log" 2>&1 || fail "the packages cannot be imported; 'make clean-env' and"
wanted_state >"$stamp"
say "done: .venv is ready"
