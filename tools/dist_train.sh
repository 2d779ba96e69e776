#!/usr/bin/env bash
# Train with one process a GPU (or, where there is none, a CPU process), on one or more machines.
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# More machines: NNODES, NODE_RANK, MASTER_ADDR, PORT. MAX_RESTARTS: how often all processes start
# again, from the last checkpoint, after one has died (0).
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
  exit 2
fi
config=$1 processes=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/launch.sh
source "$here/launch.sh"
launch_check "$processes" "$here/train.py" "$config" "$@" --check
launch_torchrun "$processes" "$here/train.py" "$config" --launcher pytorch "$@"
