#!/usr/bin/env bash
#
# Makes an environment of this checkout ready. It does nothing when that is ready, and goes on where
# an interrupted run stopped.
#
#   setup_env.sh             .venv: for demo, tests, docs; the versions of constraints.txt
#   setup_env.sh newest      .venv-newest: for make test-newest; the newest torch, looked for daily
#   setup_env.sh openmmlab   .venv-openmmlab: for make test-openmmlab; constraints-openmmlab.txt
#
#   PYTHON=/path/to/python3.11   the Python to use; default: the first that fits
#   MMCV_OPS=compiled            .venv only: compile mmcv's operators (needs a C++ compiler and
#                                Python's headers; MAX_JOBS compilers at once); none: without them
#
# In the environment, setup.log holds what pip said, and setup.stamp what it was made from.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
kind=${1:-}
venv=$root/.venv${kind:+-$kind}
target=setup versions='3.10 to 3.12' packages='--editable .[onedl,test,docs]' pins=constraints.txt
case $kind in
'') ;;
newest)
    target=test-newest pins=/dev/null
    packages='--upgrade --upgrade-strategy eager --editable .[onedl,test]'
    ;;
openmmlab)
    target=test-openmmlab versions='3.8 to 3.11' pins=constraints-openmmlab.txt
    packages='--editable .[openmmlab] hypothesis pytest pytest-xdist tensorboard timm'
    ;;
*) echo "usage: setup_env.sh [newest | openmmlab]" >&2 && exit 2 ;;
esac
py=$venv/bin/python
log=$venv/setup.log
stamp=$venv/setup.stamp

# The caller's Python settings must not leak in. pip's own configuration stays in force.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# An activated environment must not be taken for the Python that it is made with.
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
    die "$* (whole log: $log); 'make $target' tries again"
}

# --- Python ----------------------------------------------------------------------------------

python_version() { # prints 3.11 or so; fails unless $1 runs, has a fitting version and venv
    "$1" -I -c '
import ensurepip, sys, venv
low, high = (tuple(map(int, text.split("."))) for text in sys.argv[1].split(" to "))
assert low <= sys.version_info[:2] <= high
print("%d.%d" % sys.version_info[:2])' "$versions" 2>/dev/null
}

find_python() { # prints the path of the first usable Python
    local -a names=(python3 python3.12 python3.11 python3.10 python3.9 python3.8)
    local name path
    [ -z "${PYTHON:-}" ] || names=("$PYTHON")
    for name in "${names[@]}"; do
        while IFS= read -r path; do
            python_version "$path" >/dev/null && printf '%s\n' "$path" && return
        done < <(type -aP "$name" || true)
    done
    die "no usable Python in: ${names[*]}. Needed is $versions with venv" \
        "(Debian/Ubuntu: apt install python3 python3-venv)," \
        "or name one: make $target PYTHON=/path/to/python3.11"
}

# --- state of the environment ----------------------------------------------------------------

wanted_state() {
    printf '%s\n' "$root" "$(python_version "$py")"
    [ "$kind" != newest ] || date +%F
    cat setup.py pyproject.toml "$pins" tools/setup_env.sh | cksum
}
python_fits() { # the environment is of this folder, and of the version of $PYTHON if that is set
    local version
    version=$(python_version "$py") || return
    grep -qF -e "=$venv" -e "\"$venv" -e "'$venv" "$venv/bin/activate" || return
    [ -z "$host" ] || [ "$version" = "$(python_version "$host")" ]
}
ready() { # the last line of the stamp says whether mmcv's operators are compiled
    [ -f "$stamp" ] && python_fits && [ "$(sed '$d' "$stamp")" = "$(wanted_state)" ] &&
        grep -qx "ops ${wanted_ops:-.*}" "$stamp"
}

make_venv() {
    [ -n "$host" ] || host=$(find_python)
    [ ! -e "$venv" ] || say "replacing the unusable ${venv##*/}"
    say "making ${venv##*/} with $host ($(python_version "$host"))"
    rm -rf "$venv"
    "$host" -m venv "$venv" || die "$host could not make ${venv##*/}; name another one with PYTHON="
}

# A package that was being installed when a run was killed has no RECORD; one that was being
# replaced has a name with ~. Let pip install them anew.
drop_half_installed() {
    local path
    for path in "$venv"/lib/python3*/site-packages/{~*,*.dist-info}; do
        [ -e "$path/RECORD" ] && [[ ${path##*/} != ~* ]] || rm -rf "$path"
    done
}

# --- packages --------------------------------------------------------------------------------

pip_install() { # what Python compiles when it first imports a module need not be compiled now
    printf '+ pip install %s\n' "$*" >>"$log"
    "$py" -m pip install --no-compile --constraint "$pins" "$@" >>"$log" 2>&1
}

ops_state() { # mmcv's compiled operators: none, broken or compiled
    "$py" -I -c '
import importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec("mmcv").origin).parent
if not [*folder.glob("_ext.*.so"), *folder.glob("_ext.so")]:
    raise SystemExit(print("none"))
import torch
from mmcv.ops import nms
nms(torch.zeros(1, 4), torch.ones(1), 0.5)
print("compiled")' 2>>"$log" || echo broken
}

# onedl-mmcv comes as source. Built in isolation, where no torch is seen, it has no operators; a
# wheel in pip's cache may have some, of any torch.
pure_mmcv() {
    pip_install --no-cache-dir --no-deps "$@" onedl-mmcv || fail "pip could not build onedl-mmcv"
}

compile_mmcv() {
    local option start=$SECONDS
    MAX_JOBS=${MAX_JOBS:-$(awk -v cores="$(getconf _NPROCESSORS_ONLN)" '
        /MemAvailable/ { most = int($2 / 2e6) } # 2 GB each
        END { print most < 1 ? 1 : most < cores ? most : cores }' /proc/meminfo || echo 1)}
    export MAX_JOBS
    say "compiling mmcv's operators: about 10 minutes on 2 cores; here: $MAX_JOBS jobs"
    while sleep 30 >/dev/null && kill -0 $$; do say "  $((SECONDS - start)) s"; done 2>/dev/null 9>&- &
    beat=$!
    trap 'kill "$beat" 2>/dev/null || true' EXIT
    pip_install ninja || fail "pip could not install ninja"
    # The second time without pip's cache, whose wheel may be of another torch.
    for option in --verbose --no-cache-dir; do
        pip_install --no-build-isolation --force-reinstall --no-deps "$option" onedl-mmcv ||
            fail "onedl-mmcv could not be compiled (for the CPU alone it is by" \
                "FORCE_CUDA=0 CUDA_VISIBLE_DEVICES= MMCV_OPS=compiled make setup)"
        [ "$(ops_state)" != compiled ] || return 0
    done
    fail "the operators of onedl-mmcv do not work"
}

# --- main ------------------------------------------------------------------------------------

trap 'say "interrupted; the next run resumes from here"; exit 130' INT

wanted_ops=
[ -n "$kind" ] || wanted_ops=${MMCV_OPS:-}
case $wanted_ops in
'' | none | compiled) ;;
*) die "MMCV_OPS must be compiled or none, got '$wanted_ops'" ;;
esac
host=
[ -z "${PYTHON:-}" ] || host=$(find_python)
! ready || exit 0

mkdir -p .setup
exec 9>".setup/lock$kind"
if command -v flock >/dev/null && ! flock -n 9; then
    say "waiting for another set-up of this checkout"
    flock 9
    ! ready || exit 0
fi

python_fits || [ -n "$host" ] || host=$(find_python)
if [ "$wanted_ops" = compiled ]; then
    # CXX may hold more than one word, as in "ccache g++".
    # shellcheck disable=SC2086
    ${CXX:-c++} -x c++ -std=c++17 -fsyntax-only - 2>/dev/null <<<'#include <vector>' ||
        die "MMCV_OPS=compiled needs a C++17 compiler (tried: ${CXX:-c++})." \
            "Install one (Debian/Ubuntu: apt install g++ python3-dev) or set CXX"
fi
python_fits || make_venv
rm -f "$stamp"
: >"$log"
PATH=$venv/bin:$PATH
drop_half_installed
"$py" -m pip --version >>"$log" 2>&1 || "$py" -m ensurepip >>"$log" 2>&1 ||
    fail "no pip in ${venv##*/}"

say "installing torch and the other packages (several GB on a machine with none of them)"
pip_install --upgrade pip || fail "pip could not renew itself"
if [ "$kind" = openmmlab ]; then # mmcv and mmcv-lite are one module
    "$py" -m pip uninstall -y mmcv >>"$log" 2>&1 || true
else
    pure_mmcv
fi
# shellcheck disable=SC2086
pip_install $packages || fail "pip could not install the packages"
# imaug, which mmdet asks for, would hold these two back.
[ "$kind" != newest ] || pip_install --upgrade --no-deps numpy opencv-python-headless ||
    fail "pip could not install the newest numpy"
# opencv-python needs libGL, which servers lack; the headless build of the same module does not.
"$py" -I -c 'import cv2' 2>/dev/null ||
    pip_install --force-reinstall --no-deps opencv-python-headless || fail "no usable OpenCV"
ops=$(ops_state)
if [ "$wanted_ops" = compiled ]; then
    [ "$ops" = compiled ] || compile_mmcv
elif [ "$wanted_ops,$ops" = none,compiled ] || [ "$ops" = broken ]; then
    pure_mmcv --force-reinstall
fi

made_of=$("$py" -I -c '
import gcvit_mm, mmdet, mmpretrain, mmseg, numpy, torch, torchvision
print(", ".join(m.__name__ + " " + m.__version__ for m in (torch, torchvision, numpy)))' \
    2>>"$log") || fail "the packages cannot be imported; 'make clean-env' and"
{ wanted_state && echo "ops $(ops_state)"; } >"$stamp"
say "done: ${venv##*/} is ready ($made_of)"
