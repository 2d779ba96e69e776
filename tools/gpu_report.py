"""Show on a GPU what only a GPU can show, and keep every figure in gpu.json as it is made.

Parts, each at most 8 minutes, so that a short allocation suffices: 1 the tests that need a GPU, 2
the bars of the benchmark, 3 the demo, 4 to 8 short trainings of shipped configs at full size. A
part that fails is recorded and the others go on; a part that runs again replaces its figures.

Examples:
    python tools/gpu_report.py            # all parts; `make gpu` calls it
    python tools/gpu_report.py --part 2   # `make gpu PART=2`
    python tools/gpu_report.py --docs docs/performance.md   # write the tables into the page
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from make_shapes import CLASSES, make_shapes
from mmengine.config import Config

from gcvit_mm import UserError, cli

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT.parent / 'shared' / 'data'
TRAININGS = (
    'cascade_gcvit_t_3x',
    'upernet_gcvit_t_160k',
    'mask_gpvit_l1_1x',
    'retinanet_scalablevit_s_1x',
    'mask_gg_t_1x',
)
TITLES = ('tests', 'bars', 'demo', *TRAININGS)
MARKS = '<!-- gpu: written by tools/gpu_report.py -->', '<!-- gpu: end -->'
LIMIT = 480  # seconds of a part


def run(command: list, folder: Path, name: str) -> tuple[int, str, float]:
    """Run a program to its end, or to the limit of a part; its words go to a file.

    Returns:
        Its status (124 where it ran into the limit), what it said, and the seconds it took.
    """
    start, log = time.perf_counter(), folder / f'{name}.log'
    with log.open('w') as file:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=dict(os.environ, DEMO_PYTHON=sys.executable),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # workers too
            process.wait()
            status = 124
    return status, log.read_text(errors='replace'), time.perf_counter() - start


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), '')


# ------------------------------------------------------------------------- parts
def tests(folder: Path) -> dict:
    """All tests marked gpu."""
    command = [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', '-p', 'no:cacheprovider']
    status, output, seconds = run(command, folder, 'tests')
    counts = {word: int(n) for n, word in re.findall(r'(\d+) (passed|failed|skipped)', output)}
    failed = re.findall(r'^(?:FAILED|ERROR) (\S+)', output, re.M)
    return dict(ok=status == 0, seconds=seconds, failed=failed, said=last_line(output), **counts)


def bars(folder: Path) -> dict:
    """The bars of the benchmark on a GPU; those measured before a failure count."""
    out = folder / 'bars.json'
    out.unlink(missing_ok=True)
    command = [sys.executable, 'tools/benchmark.py', '--suite', 'gpu', '--device', 'cuda']
    status, output, seconds = run([*command, '--json', out], folder, 'bars')
    measured = json.loads(out.read_text())['bars'] if out.is_file() else []
    keys = ('title', 'value', 'limit', 'passed')
    rows = [{key: row[key] for key in keys} for row in measured]
    return dict(ok=status == 0, seconds=seconds, said=last_line(output), rows=rows)


def demo(folder: Path) -> dict:
    """The demo, and what it evaluates to."""
    status, output, seconds = run(['bash', 'tools/demo.sh'], folder, 'demo')
    found = re.findall(r'coco/(bbox|segm)_mAP(_50)?: ([\d.]+)', output)
    figures = {f'{kind} AP{"50" if at else ""}': float(value) for kind, at, value in found}
    return dict(ok=status == 0, seconds=seconds, said=last_line(output), **figures)


def data_of(cfg: Config, folder: Path) -> str:
    """Point a config to the samples of its data set, or to drawn images of the same size.

    Returns:
        Which of the two it was.
    """
    segments = cfg.default_scope == 'mmseg'
    sample = SAMPLES / ('ade_sample/ADEChallengeData2016' if segments else 'coco_sample')
    if sample.is_dir():
        cli.replace_data_root(cfg, str(sample))
        return 'sample'
    drawn = folder / 'shapes640'
    make_shapes(drawn, dict(train=16, val=4, size=640, seed=0, cls_train=1, cls_val=1))
    cli.replace_data_root(cfg, str(drawn / ('ade/ADEChallengeData2016' if segments else 'coco')))
    dataset = cfg.train_dataloader.dataset
    dataset.metainfo = dict(classes=tuple(CLASSES))
    for node in (dataset, cfg.model):
        set_classes(node, len(CLASSES))
    return 'drawn'


def set_classes(node: Any, count: int) -> None:
    """Give every head but those for objectness another number of classes."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == 'num_classes':
            node[key] = count
        elif key != 'rpn_head':
            for part in value if isinstance(value, (list, tuple)) else [value]:
                set_classes(part, count)


def training_config(name: str, folder: Path, iterations: int, amp: bool) -> tuple[Config, str]:
    """A shipped config for a few steps without evaluation, and where its images come from."""
    cfg = cli.load_config(str(ROOT / f'configs/{name}.py'))
    images = data_of(cfg, folder)
    cfg.model.backbone.pop('init_cfg', None)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=10**9)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    for part in ('val', 'test'):
        for key in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{part}_{key}'] = None
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100)]
    cfg.default_hooks.checkpoint = dict(type='SafeCheckpointHook', interval=10**9, save_last=False)
    cfg.default_hooks.logger.interval = 1
    cfg.log_processor = dict(type='LogProcessor', window_size=1, by_epoch=False)
    if amp:
        cfg.optim_wrapper.update(
            type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False)
        )
    cfg.work_dir = str(folder / name)
    return cfg, images


def summary(scalars: list[dict], batch: int) -> dict:
    """Figures of a training from its log: the first tenth of the steps warms up.

    Args:
        scalars: A row a step, as mmengine logs them: loss, seconds, MB.
        batch: Images a step.
    """
    steady = scalars[len(scalars) // 10 :]
    seconds = statistics.median(row['time'] for row in steady)
    return dict(
        steps=len(scalars),
        images_per_second=batch / seconds,
        waiting=statistics.median(row['data_time'] for row in steady) / seconds,
        peak_mb=max(row.get('memory', 0) for row in scalars),
        losses=[round(row['loss'], 4) for row in scalars],
    )


def training(name: str, folder: Path, iterations: int, amp: bool) -> dict:
    """A short training of a shipped config in bfloat16: images a second, memory, losses."""
    cfg, images = training_config(name, folder, iterations, amp)
    path = folder / f'{name}.py'
    cfg.dump(str(path))
    status, output, seconds = run([sys.executable, 'tools/train.py', path], folder, name)
    logs = sorted(Path(cfg.work_dir).glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for line in logs[-1].read_text().splitlines()] if logs else []
    rows = [row for row in rows if 'loss' in row]
    found = summary(rows, cfg.train_dataloader.batch_size) if rows else {}
    ok = status == 0 and len(rows) == iterations
    return dict(ok=ok, seconds=seconds, said=last_line(output), images=images, **found)


# -------------------------------------------------------------------------- page
def page(report: dict) -> str:
    """The section of the performance page, from what gpu.json holds."""
    if not report.get('parts'):
        return 'Not measured: no GPU was at hand. `make gpu` measures all of this where one is.'
    lines = [f'{report["device"]}, torch {report["torch"]}, `make gpu`.', '']
    parts = report['parts']
    if 'tests' in parts:
        row = parts['tests']
        counts = [f'{row[word]} {word}' for word in ('passed', 'failed', 'skipped') if word in row]
        lines += [f'Tests marked gpu: {", ".join(counts) or row["said"]}.', '']
    if parts.get('bars', {}).get('rows'):
        lines += ['| bar | measured | limit | |', '|---|---|---|---|']
        for row in parts['bars']['rows']:
            verdict = 'passed' if row['passed'] else '**missed**'
            lines.append(
                f'| {row["title"]} | {row["value"]:.2f} | {row["limit"]:.2f} | {verdict} |'
            )
        lines.append('')
    found = {name: parts[name] for name in TRAININGS if name in parts}
    if found:
        lines += [
            'Trainings in bfloat16, one GPU:',
            '',
            '| config | images/s | peak MB | steps | loss, first and last tenth | images |',
            '|---|---|---|---|---|---|',
        ]
        lines += [f'| `{name}` | {training_cells(row)} |' for name, row in found.items()]
        lines.append('')
    wrong = [f'{name} ({part["said"]})' for name, part in parts.items() if not part['ok']]
    missing = [name for name in TITLES if name not in parts]
    lines += [f'Failed: {"; ".join(wrong)}.', ''] if wrong else []
    lines += [f'Not measured: {", ".join(missing)}.', ''] if missing else []
    return '\n'.join(lines).rstrip()


def training_cells(row: dict) -> str:
    """Cells of a training."""
    if 'losses' not in row:
        return ' | '.join(['failed', '', '', '', row['images']])
    losses, tenth = row['losses'], max(1, len(row['losses']) // 10)
    first, last = statistics.mean(losses[:tenth]), statistics.mean(losses[-tenth:])
    figures = f'{row["images_per_second"]:.1f} | {row["peak_mb"]} | {row["steps"]}'
    return f'{figures} | {first:.2f}, {last:.2f} | {row["images"]}'


def write_page(path: Path, report: dict) -> None:
    """Put the section between its marks.

    Raises:
        UserError: If the page has no marks.
    """
    text = path.read_text()
    begin, end = (text.find(mark) for mark in MARKS)
    if begin < 0 or end < begin:
        raise UserError(f'{path} has no section between {MARKS[0]} and {MARKS[1]}')
    path.write_text(f'{text[:begin]}{MARKS[0]}\n{page(report)}\n{text[end:]}')


# -------------------------------------------------------------------------- main
def main(argv: list[str] | None = None) -> None:
    """Run the parts; status 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--part', type=int, choices=range(1, len(TITLES) + 1), help='one of them')
    parser.add_argument('--out', type=Path, default=Path('gpu.json'), help='default: gpu.json')
    parser.add_argument('--iterations', type=int, default=200, help='of a training (200)')
    parser.add_argument('--docs', type=Path, metavar='PAGE.md', help='only write this page')
    args = parser.parse_args(argv)
    report: dict = json.loads(args.out.read_text()) if args.out.is_file() else {}
    if args.docs:
        write_page(args.docs, report)
        return
    if not torch.cuda.is_available():
        raise UserError('torch finds no GPU: run this where there is one (nvidia-smi shows it)')
    report.update(device=torch.cuda.get_device_name(), torch=torch.__version__)
    folder = (ROOT / 'work_dirs/gpu').resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [TITLES[args.part - 1]] if args.part else TITLES
    for title in chosen:
        print(f'{title}: log in {folder}/{title}.log', flush=True)
        try:
            if title in TRAININGS:
                found = training(title, folder, args.iterations, amp=True)
            else:
                found = dict(tests=tests, bars=bars, demo=demo)[title](folder)
        except Exception as error:  # the other parts go on
            found = dict(ok=False, said=f'{type(error).__name__}: {error}')
        report.setdefault('parts', {})[title] = found
        partial = args.out.with_suffix('.partial')
        partial.write_text(json.dumps(report, indent=1))
        os.replace(partial, args.out)
        print(f'{title}: {"ok" if found["ok"] else "FAILED"}: {found["said"]}', flush=True)
    if not all(report['parts'][title]['ok'] for title in chosen):
        sys.exit(1)


if __name__ == '__main__':
    cli.run_tool(main)
