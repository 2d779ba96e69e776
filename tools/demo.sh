#!/usr/bin/env bash
# The demo: draw shapes, train a small Mask R-CNN with GC ViT on them, evaluate, draw, plot.
# Everything it leaves is in work_dirs/demo. `make demo` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${DEMO_PYTHON:-.venv/bin/python}
config=configs/mask_gcvit_xxt_shapes.py
out=work_dirs/demo
# Threads that wait do not spin: data loader and model share the cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

"$python" tools/make_shapes.py data/shapes
resume=
if [ -e "$out/last_checkpoint" ]; then resume=--resume; fi
echo "training (about 3 minutes on two CPU cores); log: $out"
"$python" tools/train.py "$config" --work-dir "$out" ${resume:+"$resume"} "$@"
rm -rf "$out/predictions"
"$python" tools/test.py "$config" "$(<"$out/last_checkpoint")" --work-dir "$out/test" \
  --show-dir "$out/predictions"
"$python" tools/plot_log.py "$out"
echo "images, ground truth left and prediction right: $out/predictions"
echo "losses and AP: $out/curves.png"
