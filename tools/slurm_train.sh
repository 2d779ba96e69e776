#!/usr/bin/env bash
# Train under Slurm, one task a GPU.
#   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of train.py]
# Also: CPUS_PER_TASK (5), SRUN_ARGS, PORT.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: [GPUS=8] [GPUS_PER_NODE=8] $0 PARTITION JOB_NAME CONFIG [options]" >&2
  exit 2
fi
partition=$1 job_name=$2 config=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/launch.sh
source "$here/launch.sh"
gpus=${GPUS:-8}
launch_number GPUS "$gpus" 1
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
launch_number GPUS_PER_NODE "$gpus_per_node" 1
launch_number CPUS_PER_TASK "${CPUS_PER_TASK:-5}" 1
launch_number PORT "${PORT:-29500}" 1 65535
if [ ! -f "$config" ]; then
  echo "error: config $config does not exist: check the path" >&2
  exit 2
fi
if ! command -v srun >/dev/null; then
  echo "error: srun not found: run this where Slurm is, or use tools/dist_train.sh" >&2
  exit 2
fi
export MASTER_PORT=${PORT:-29500}
# shellcheck disable=SC2086 # SRUN_ARGS holds several words
exec srun -p "$partition" --job-name="$job_name" --gres=gpu:"$gpus_per_node" \
  --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
  --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  "$(launch_python)" -u "$here/train.py" "$config" --launcher slurm "$@"
