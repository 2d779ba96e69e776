#!/usr/bin/env bash
# The demo: draw shapes, train a small Mask R-CNN with GC ViT on them, evaluate, draw, plot.
# Everything it leaves is in work_dirs/demo. `make demo` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
config=configs/mask_gcvit_xxt_shapes.py
out=work_dirs/demo

"$python" tools/make_shapes.py data/shapes
echo "training 300 iterations (about 10 minutes on two CPU cores); log: $out"
"$python" tools/train.py "$config" --work-dir "$out" --resume "$@"
rm -rf "$out/predictions"
"$python" tools/test.py "$config" "$out/iter_300.pth" --work-dir "$out/test" \
  --show-dir "$out/predictions"
"$python" tools/plot_log.py "$out"
echo
echo "images, ground truth left and prediction right: $out/predictions"
echo "losses and AP: $out/curves.png"
