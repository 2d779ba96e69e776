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

# launch_number NAME VALUE LEAST [MOST]: ends with one line unless it is such a number.
launch_number() {
  local most=${4:-999999}
  case $2 in
    ''|*[!0-9]*|???????*) ;;
    *) if [ "$2" -ge "$3" ] && [ "$2" -le "$most" ]; then return; fi ;;
  esac
  if [ -n "${4:-}" ]; then
    echo "error: $1 must be a number from $3 to $4, got '$2'" >&2
  else
    echo "error: $1 must be a number from $3 up, got '$2'" >&2
  fi
  exit 2
}

# launch_check PROCESSES SCRIPT ARGS...: one process looks at everything first, so that bad
# input is one line and not the report of every process.
launch_check() {
  launch_number PROCESSES "$1" 1
  launch_number NNODES "${NNODES:-1}" 1
  launch_number NODE_RANK "${NODE_RANK:-0}" 0 $((10#${NNODES:-1} - 1))
  launch_number PORT "${PORT:-29500}" 1 65535
  launch_number MAX_RESTARTS "${MAX_RESTARTS:-0}" 0
  launch_number OMP_NUM_THREADS "${OMP_NUM_THREADS:-1}" 1
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
