#!/usr/bin/env bash
# Evaluate with one process a GPU (or, where there is none, a CPU process).
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# More machines: NNODES, NODE_RANK, MASTER_ADDR, PORT.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
  exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/launch.sh
source "$here/launch.sh"
launch_check "$processes" "$here/test.py" "$config" "$checkpoint" "$@" --check
launch_torchrun "$processes" "$here/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
