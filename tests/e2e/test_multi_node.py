"""Two nodes, here two launchers on the loopback address: they train, and end together."""

import signal

import pytest

from support.faulty_run import write_config
from support.processes import attempts, finish, free_port, moments
from support.running import ENV, ROOT, TESTS, iterations, losses, start

QUICK = [
    *iterations(3),
    'train_dataloader.batch_size=4',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
]


def start_nodes(*command, **env):
    """Start dist_train.sh on two nodes of one process each."""
    env = dict(env, NNODES='2', MASTER_ADDR='127.0.0.1', PORT=free_port(), PYTHONPATH=TESTS)
    return [
        start('dist_train.sh', *command, env=dict(env, NODE_RANK=str(rank)), start_new_session=True)
        for rank in (0, 1)
    ]


def test_two_nodes_train(shapes, tmp_path):
    """A classifier of drawn shapes: one of the two nodes writes log and checkpoint."""
    pytest.importorskip('mmpretrain')
    nodes = start_nodes(
        ROOT / 'configs/cls_gcvit_xxt_shapes.py',
        1,
        '--work-dir',
        tmp_path,
        '--data-root',
        shapes / 'imagenet',
        '--cfg-options',
        *QUICK,
    )
    first, second = [finish(node, 300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], first[-3000:] + second[-3000:]
    assert 'schedule 3 iterations of 2 x 4 images' in first
    assert list(losses(first)) == [1, 2, 3] and not losses(second)
    assert 'accuracy/top1:' in first and (tmp_path / 'iter_3.pth').exists()


def test_nodes_restart_and_end_together(tmp_path):
    """The process of one node dies twice, and may start again once: so do and so end both."""
    work_dir = tmp_path / 'work'
    nodes = start_nodes(write_config(tmp_path, (5, 8)), 1, '--work-dir', work_dir, MAX_RESTARTS='1')
    try:
        for _ in moments(nodes[0], 'second death'):
            if (work_dir / 'died_8').exists():
                break
    finally:
        first, second = [finish(node, 300) for node in nodes]
    assert all(node.returncode not in (0, -signal.SIGKILL) for node in nodes)
    assert 'Signal 9 (SIGKILL)' in second, second[-3000:]
    before, after = attempts(first)
    assert list(before) == [1, 2, 3, 4, 5] and list(after) == [4, 5, 6, 7, 8]
    # The steps after the last checkpoint, trained twice.
    assert [after[4], after[5]] == pytest.approx([before[4], before[5]], abs=1e-5)


# Starts the tasks as Slurm would, each on a node of its own.
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
  case $1 in
    -p) shift ;;
    --ntasks=*) tasks=${1#*=} ;;
  esac
  shift
done
export SLURM_NTASKS=$tasks SLURM_JOB_NUM_NODES=$tasks SLURM_JOB_NODELIST="node[1-$tasks]"
export SLURM_LOCALID=0
i=0
while [ "$i" -lt "$tasks" ]; do
  SLURM_PROCID=$i "$@" &
  pids="$pids $!"
  i=$((i + 1))
done
for pid in $pids; do wait "$pid" || exit 1; done
"""
SCONTROL = '#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && echo 127.0.0.1 && echo other\n'


def test_slurm(tmp_path):
    """slurm_train.sh with stand-ins for Slurm: two tasks on two nodes train together."""
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = [write_config(tmp_path), '--work-dir', tmp_path / 'work']
    env = dict(GPUS='2', GPUS_PER_NODE='1', PORT=free_port(), PYTHONPATH=TESTS)
    env['PATH'] = f'{tmp_path}:{ENV["PATH"]}'
    process = start('slurm_train.sh', 'part', 'job', *command, env=env, start_new_session=True)
    output = finish(process, 300)
    assert process.returncode == 0, output[-4000:]
    assert 'schedule 12 iterations of 2 x 2 images' in output
    assert list(losses(output)) == list(range(1, 13))
