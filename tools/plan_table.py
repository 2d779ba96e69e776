"""Compare the memory that `python -m gcvit_mm plan` predicts with that of the same step.

A line a case goes to a JSON file as it is measured, and cases that are there are left out. On the
CPU the record of torch's profiler is the truth, on a GPU `torch.cuda.max_memory_allocated`.

Examples:
    python tools/plan_table.py planning.jsonl
    python tools/plan_table.py planning.jsonl --docs docs/planning.md
    python tools/plan_table.py cost.jsonl --cost configs/*.py
"""

import argparse
import itertools
import json
import os
import os.path as osp
import re
import subprocess
import sys
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch.profiler import ProfilerActivity, profile

from gcvit_mm import cli
from gcvit_mm.cli.devices import use_cpu
from gcvit_mm.planning.predict import Load, build, drawn, dtype_of, predict_test, predict_training
from gcvit_mm.planning.step import build_wrapper, prime, test_step, train_step

# A config of each head, and two sizes of pictures.
CASES = {
    'mask_gcvit_xxt_shapes': ((128, 160), (256, 320)),
    'upernet_gcvit_xxt_shapes': ((128, 128), (224, 224)),
    'cls_gcvit_xxt_300e': ((128, 128), (224, 224)),
    'semfpn_scalablevit_s_80k': ((128, 128), (224, 224)),
    'segformer_gpvit_l1_160k': ((128, 128), (224, 224)),
    'retinanet_scalablevit_s_1x': ((128, 192), (192, 256)),
    'cascade_gg_t_1x': ((128, 192), (192, 256)),
    'dino_gcvit_t_1x': ((256, 320), (256, 384)),
}
BATCH, OBJECTS = 2, 40
# The samplers of Cascade fill their quota, as the prediction has it, where there are more objects.
MANY = dict(cascade_gg_t_1x=150)
MARKS = '<!-- measured -->', '<!-- end -->'


def cases() -> Iterator[Dict[str, Any]]:
    """All cases, those first that tell most."""
    ways = list(itertools.product((0, 1), (False, True), ('float32', 'bfloat16')))
    first = [(0, False, 'float32'), (0, True, 'bfloat16')]
    for large, cp, dtype in first + [way for way in ways if way not in first]:
        for name, sizes in CASES.items():
            yield dict(config=name, size=list(sizes[large]), with_cp=cp, dtype=dtype, mode='train')
    for large, (name, sizes) in itertools.product((0, 1), CASES.items()):
        yield dict(
            config=name, size=list(sizes[large]), with_cp=False, dtype='float32', mode='test'
        )


def read(case: Dict[str, Any]) -> Config:
    """The config of a case."""
    cfg = cli.load_config(osp.join('configs', f'{case["config"]}.py'), None)
    cfg.launcher = 'none'
    use_cpu(cfg)
    cfg.custom_hooks = []  # an averaged model is not part of a step
    cfg.model.backbone.with_cp = case['with_cp']
    cfg.model.backbone.drop_path_rate = 0.0  # a prediction drops nothing
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = tuple(case['size'])
        cfg.model.data_preprocessor.test_cfg = None
    rcnn = case['mode'] == 'test' and (cfg.model.get('test_cfg') or {}).get('rcnn')
    if rcnn:  # weights are drawn: as many boxes are found as can be
        rcnn.score_thr = 0.0
    if case['dtype'] != 'float32':
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=case['dtype'])
    return cfg


def measure(cfg: Config, load: Load, training: bool) -> int:
    """Peak of the bytes that are allocated by a step that is run."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    model: Any = build(cfg, device == 'cuda').to_empty(device=device)
    for parameter in model.parameters():
        torch.nn.init.trunc_normal_(parameter.data, std=0.02)
    for x in model.buffers():  # variances among them
        x.fill_(1 if x.is_floating_point() else 0)
    model.train(training)
    kept: List[torch.Tensor] = [*model.parameters(), *model.buffers()]
    wrapper: Any = None
    if training:
        wrapper = build_wrapper(cfg.optim_wrapper, model)
        prime(wrapper, model)
        states = wrapper.optimizer.state.values()
        kept += [x for state in states for x in state.values() if isinstance(x, torch.Tensor)]
    size, count = (load.train, load.batch) if training else (load.test, load.test_batch)

    def run() -> None:
        batch = drawn(cfg, size, count, load.objects)
        if training:
            train_step(model, wrapper, batch, dtype_of(cfg))
        else:
            test_step(model, batch)

    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    held = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in kept}
    return sum(held.values()) + peak_of(record)


def peak_of(record: Any) -> int:
    """Most bytes at a time in a profiler's record of tensors."""
    events = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    sums = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(sums, default=0)


def run_case(case: Dict[str, Any]) -> Dict[str, Any]:
    """Predict and measure a case."""
    cfg, size = read(case), tuple(case['size'])
    objects = MANY.get(case['config'], OBJECTS)
    load = Load(size, size, BATCH, 1, objects, 0, 'drawn')
    training, gpu = case['mode'] == 'train', torch.cuda.is_available()
    function = predict_training if training else predict_test
    predicted = function(cfg, load, gpu)[0].bytes
    measured = measure(cfg, load, training)
    device = torch.cuda.get_device_name() if gpu else 'CPU'
    return dict(case, device=device, predicted=predicted, measured=measured)


def table(rows: List[Dict[str, Any]]) -> str:
    """Rows as a table of Markdown."""
    lines = ['| config | step | size | type | `with_cp` | predicted | measured | deviation |']
    lines.append('|---|---|---|---|---|---|---|---|')
    for row in rows:
        deviation = row['predicted'] / row['measured'] - 1
        lines.append(
            f'| {row["config"]} | {row["mode"]} | {row["size"][0]}x{row["size"][1]} | '
            f'{row["dtype"]} | {"yes" if row["with_cp"] else "no"} | '
            f'{row["predicted"] / 1e6:.1f} MB | {row["measured"] / 1e6:.1f} MB | '
            f'{deviation:+.1%} |'
        )
    return '\n'.join(lines)


def cost_of(config: str) -> Dict[str, Any]:
    """Seconds and bytes of memory that a plan takes, in a process of its own."""
    start = time.perf_counter()
    words = [sys.executable, '-m', 'gcvit_mm', 'plan', config, '--json', '--gpu', '80GB']
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    seconds = time.perf_counter() - start
    return dict(config=config, seconds=seconds, bytes=usage.ru_maxrss << 10, ok=not status)


def main(argv: Optional[List[str]] = None) -> None:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('file', help='JSON lines, read and continued')
    parser.add_argument('--docs', metavar='FILE', help='write the table of the file into this page')
    parser.add_argument('--cost', nargs='+', metavar='CONFIG', help='what a plan itself takes')
    args = parser.parse_args(argv)
    rows = []
    if osp.exists(args.file):
        with open(args.file, encoding='utf-8') as file:
            rows = [json.loads(line) for line in file]
    if args.docs:
        with open(args.docs, encoding='utf-8') as file:
            text = file.read()
        inside = f'{MARKS[0]}\n\n{table(rows)}\n\n{MARKS[1]}'
        text = re.sub(f'{MARKS[0]}.*{MARKS[1]}', lambda _: inside, text, flags=re.DOTALL)
        with open(args.docs, 'w', encoding='utf-8') as file:
            file.write(text)
        return
    MMLogger.get_instance('plan', log_level='ERROR')
    wanted: Iterable[Dict[str, Any]] = [dict(config=name) for name in args.cost or ()]
    for case in wanted if args.cost else cases():
        if not any(case.items() <= row.items() for row in rows):
            row = cost_of(case['config']) if args.cost else run_case(case)
            with open(args.file, 'a', encoding='utf-8') as file:
                file.write(json.dumps(row) + '\n')
            print(json.dumps(row) if args.cost else table([row]).splitlines()[-1], flush=True)


if __name__ == '__main__':
    cli.run_tool(main)
