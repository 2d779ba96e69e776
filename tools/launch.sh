# Sourced by dist_train.sh, dist_test.sh and slurm_train.sh.

# The Python of the project's own environment where that stands and none is active.
launch_python() {
  local own="$here/../.venv/bin/python"
  if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ] && [ -x "$own" ]; then
    echo "$own"
  else
    echo python
  fi
}

# launch_check PROCESSES SCRIPT ARGS...: one process looks at everything first, so that bad
# input is one line and not the report of every process.
launch_check() {
  case $1 in
    ''|*[!0-9]*|0) echo "error: PROCESSES must be a number from 1 up, got '$1'" >&2; exit 2 ;;
  esac
  case ${MAX_RESTARTS:-0} in
    *[!0-9]*) echo "error: MAX_RESTARTS must be a number, got '$MAX_RESTARTS'" >&2; exit 2 ;;
  esac
  LOCAL_WORLD_SIZE=$1 TORCHELASTIC_MAX_RESTARTS=${MAX_RESTARTS:-0} "$(launch_python)" "${@:2}"
}

# launch_torchrun PROCESSES SCRIPT ARGS...
launch_torchrun() {
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  exec "$(launch_python)" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$1" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --max_restarts="${MAX_RESTARTS:-0}" "${@:2}"
}
