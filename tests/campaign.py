"""Kill trainings, damage and forge their checkpoints, and count what that has cost.

    python tests/campaign.py --kills 200 --damaged 300 --forged 300 --out campaign.json

A killed training goes on with ``resume=True``. It must start after its last whole checkpoint, show
the losses of a run that nobody killed, and end with its weights, optimizer and best checkpoint. A
damaged checkpoint is passed over, or is what it was. A forged one ends in a line or is harmless.
What is drawn follows from ``--seed``; the moments of the kills follow from the machine, too.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from mmengine.logging import MMLogger

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from gcvit_mm import UserError
from gcvit_mm.engine.resuming import number, numbered_checkpoints
from gcvit_mm.engine.whole_files import UNFINISHED
from gcvit_mm.messages import explain
from support import small_run
from support.campaign_run import CONFIG, EVALUATING, EVERY, STEPS
from support.faulty_run import curve
from support.guarded_run import run as train_guarded
from support.processes import gone, parents, processes_of, start_training
from support.small_run import load

PHASES = ('starting', 'running', 'saving', 'evaluating')
TARGETS = {1: ('main', 'worker'), 2: ('rank 0', 'rank 1', 'worker', 'launcher')}
KILLS_EACH = 5  # of one training, before it may come to its end
LONGEST = 300  # seconds without an end: it hangs


# ------------------------------------------------------------------ killed trainings
class Training:
    """A training in a folder of its own, which is started again and again."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder, self.work_dir, self.ranks = folder, folder / 'work', ranks
        folder.mkdir(parents=True)
        self.config = folder / 'config.py'
        self.config.write_text(CONFIG.format(self.work_dir))

    def start(self) -> None:
        for name in (UNFINISHED, EVALUATING):  # of the last kill: it would be taken for new
            (self.work_dir / name).unlink(missing_ok=True)
        options = [f'resume={self.saved() > 0}']
        self.process = start_training(
            self.config, self.work_dir, launcher=self.ranks > 1, options=options
        )

    def curve(self) -> list:
        """Steps and losses in their order."""
        return curve(self.work_dir)

    def saved(self) -> int:
        """Step of the newest checkpoint."""
        found = numbered_checkpoints(str(self.work_dir))
        return number(found[0]) if found else 0

    def wait_for(self, happened) -> bool:
        """Whether something happens before the process ends."""
        deadline = time.monotonic() + LONGEST
        while self.process.poll() is None and time.monotonic() < deadline:
            if happened():
                return True
            time.sleep(0.0005)
        return False

    def at(self, phase: str, chance: random.Random, usual: float) -> bool:
        """Wait for a moment of a phase."""
        if phase == 'starting':
            time.sleep(chance.uniform(0, usual))
            return self.process.poll() is None
        before = len(self.curve())
        count = before + chance.randint(1, 6)
        if not self.wait_for(lambda: len(self.curve()) >= count):
            return False
        marker = dict(saving=UNFINISHED, evaluating=EVALUATING).get(phase)
        if marker and not self.wait_for((self.work_dir / marker).exists):
            return False
        time.sleep(chance.choice([0, 0, chance.uniform(0, 0.06)]))
        return self.process.poll() is None

    def pid_of(self, target: str, chance: random.Random) -> int:
        """The process to kill; the one that was started where there is no such one yet."""
        family = collections.defaultdict(list)
        for pid, parent in parents(processes_of(str(self.folder))).items():
            family[parent].append(pid)
        ranks = sorted(family[self.process.pid]) if self.ranks > 1 else [self.process.pid]
        workers = [pid for rank in ranks for pid in family[rank]]
        if target.startswith('rank') and len(ranks) == self.ranks:
            return ranks[int(target[-1])]
        if target == 'worker' and workers:
            return chance.choice(workers)
        return self.process.pid


def finish(training: Training) -> tuple:
    """Status and output of a training that is left alone; None where it hangs."""
    try:
        output = training.process.communicate(timeout=LONGEST)[0]
        return training.process.returncode, output
    except Exception:  # it hangs
        os.killpg(training.process.pid, signal.SIGKILL)
        return None, training.process.communicate()[0]


def results(training: Training) -> dict:
    """What a training has come to: the last checkpoint and the best one."""
    last = load(training.work_dir / f'iter_{STEPS}.pth')
    (best,) = training.work_dir.glob('best_*.pth')
    weights = load(best)['state_dict']
    return dict(
        last=last['state_dict'], optimizer=last['optimizer']['state'], best={best.name: weights}
    )


def equal(a, b) -> bool:
    """Whether two trees of tensors are the same, bit by bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


class Reference:
    """A training that nobody kills."""

    def __init__(self, folder: Path, ranks: int) -> None:
        training = Training(folder, ranks)
        started = time.monotonic()
        training.start()
        training.wait_for(training.curve)
        self.usual = time.monotonic() - started
        status, output = finish(training)
        assert status == 0, output[-3000:]
        self.curve = dict(training.curve())
        assert sorted(self.curve) == list(range(1, STEPS + 1))
        assert len(set(self.curve.values())) == STEPS
        self.results = results(training)


def kill_trainings(count: int, folder: Path, seed: int) -> dict:
    """Kill trainings at drawn moments until so many kills are done; what they have cost."""
    chance = random.Random(seed)
    references: dict = {}
    kills: collections.Counter = collections.Counter()
    found: dict = dict(lost=[], hung=[], left=[], wrong=[], resumed=0, trainings=0)
    life = 0
    while sum(kills.values()) < count:
        life += 1
        ranks = chance.choice([1, 1, 2])
        if ranks not in references:
            references[ranks] = Reference(folder / f'whole_{ranks}', ranks)
        training = Training(folder / f'life_{life}', ranks)
        reference = references[ranks]
        for _ in range(KILLS_EACH):
            if sum(kills.values()) >= count:
                break
            phase, target = chance.choice(PHASES), chance.choice(TARGETS[ranks])
            name = f'{life}: {ranks} ranks, {phase}, {target}'
            saved, before = training.saved(), len(training.curve())
            training.start()
            hit = training.at(phase, chance, reference.usual)
            if hit:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(training.pid_of(target, chance), signal.SIGKILL)
                    kills[f'{ranks} ranks, {phase}, {target}'] += 1
            status, output = finish(training)
            if status is None:
                found['hung'].append(name)
            if not gone(training.folder, training.process):
                found['left'].append(name)
            judge(training, reference, name, saved, before, found)
            if not hit:
                break  # it has come to its end
        finish_alone(training, reference, f'{life}: {ranks} ranks', found)
        print(f'{sum(kills.values())} kills: ' + summary(found), flush=True)
        shutil.rmtree(training.folder)
    found.update(kills=dict(sorted(kills.items())), trainings=life)
    return found


def judge(training, reference, name, saved, before, found) -> None:
    """Compare what was trained since the start with the run that nobody killed."""
    new = training.curve()[before:]
    if new:
        found['resumed'] += saved > 0
        if new[0][0] != saved + 1:
            found['lost'].append(f'{name}: went on at {new[0][0]} after iter_{saved}')
    if any(loss != reference.curve[step] for step, loss in new):
        found['wrong'].append(f'{name}: other losses')
    # a checkpoint is being written beside the next steps
    last = max((step for step, _ in training.curve()), default=0)
    if training.saved() < last - 3 * EVERY:
        found['lost'].append(f'{name}: step {last}, but iter_{training.saved()}')


def finish_alone(training, reference, name, found) -> None:
    """The last start, which nobody kills: all is as it would have been."""
    saved, before = training.saved(), len(training.curve())
    training.start()
    status, output = finish(training)
    judge(training, reference, name, saved, before, found)
    if status != 0:
        found['hung' if status is None else 'wrong'].append(f'{name}: status {status}: {output}')
    elif not equal(results(training), reference.results):
        found['wrong'].append(f'{name}: other results')
    if not gone(training.folder, training.process):
        found['left'].append(name)


# ------------------------------------------------------------------ damaged and forged files
def damage(content: bytes, chance: random.Random) -> bytes:
    """A file with a drawn fault."""
    at, size = chance.randrange(len(content)), chance.choice([1, 1, 8, 512, 4096])
    noise = bytes(chance.randrange(256) for _ in range(size))
    return chance.choice(
        [
            content[:at],
            content[:at] + noise + content[at + size :],
            content[:at] + bytes(size) + content[at + size :],
            content[:at] + noise + content[at:],
            content[:at] + content[at + size :],
        ]
    )


ODD = [
    *(10**30, -1, 0, -2.5, float('nan'), float('inf'), True, None, '', 'a' * 10**6, b'\0', [], {}),
    *([None], {'a': 1}, torch.tensor(3.5), torch.zeros(0), torch.ones(1).expand(10**9)),
    *(torch.full((8,), float('nan')), torch.zeros(3, dtype=torch.complex64), '\x1b[31m', (1, 2)),
]


class Code:
    """Pickled as a call that writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def forge(content: dict, chance: random.Random, trap: Path) -> str:
    """Put something odd anywhere into a checkpoint; return where and what."""
    node, keys = content, []
    while True:
        key = chance.choice(sorted(node, key=str) if isinstance(node, dict) else range(len(node)))
        keys.append(key)
        child = node[key]
        if not isinstance(child, (dict, list)) or not child or chance.random() < 0.2:
            break
        node = child
    value = Code(trap) if chance.random() < 0.05 else chance.choice(ODD)
    if chance.random() < 0.1:
        node.pop(key)
        return f'{keys} taken out'
    node[key] = value
    return f'{keys} = {str(value)[:40]}'


def copies(original: Path, folder: Path) -> Path:
    """A work dir as training has left it after step 9 of 12."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(original, folder)
    (folder / 'iter_12.pth').unlink()
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_9.pth'))
    return folder


def spoil(count: int, folder: Path, seed: int, kind: str) -> dict:
    """Resume from spoilt checkpoints; what was said, and what was silently wrong."""
    chance, trap = random.Random(seed), folder / 'sprung'
    original = folder / 'original'
    wanted = small_run.train(original, seed=1)
    reference = load(original / 'iter_12.pth')['state_dict']
    found: dict = dict(
        refused=0, harmless=0, passed_over=0, warned=0, wrong=[], code=[], report=[], slow=[]
    )
    most, said = 0, []
    log = mock.patch.object(MMLogger, 'callHandlers', lambda self, record: said.append(record))
    for trial in range(count):
        work_dir = copies(original, folder / 'spoilt')
        path = work_dir / 'iter_9.pth'
        if kind == 'damaged':
            path.write_bytes(damage(path.read_bytes(), chance))
            what = f'{trial}'
        else:
            content = load(path)
            what = f'{trial}: {forge(content, chance, trap)}'
            torch.save(content, path)
        spoilt = path.read_bytes()
        named = chance.choice([{}, dict(load_from=str(path))])  # the folder, or this file
        size, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            said.clear()
            options = dict(randomness=dict(seed=1), log_level='WARNING', **named)
            with contextlib.redirect_stdout(None), log:
                train_guarded(work_dir, resume=True, **options)
            last = load(work_dir / 'iter_12.pth')['state_dict']
            if not equal(dict(last), dict(reference)):
                lines = [record.getMessage() for record in said]
                warned = any(re.search('--resume: |random seed', line) for line in lines)
                found['warned'] += warned
                found['wrong'] += [] if warned else [what]
            else:  # the step before has come to step 9 again
                found['harmless' if path.read_bytes() == spoilt else 'passed_over'] += 1
        except UserError as error:
            line, status = explain(error)
            ok = status == 2 and line.isprintable() and len(line) < 1000
            found['refused'] += ok
            if not ok:
                found['report'].append(f'{what}: {line[:300]}')
        except Exception as error:
            found['report'].append(f'{what}: {type(error).__name__}: {str(error)[:300]}')
        if time.monotonic() - started > 10:
            found['slow'].append(what)
        most = max(most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size)
        if trap.exists():
            found['code'].append(what)
            trap.unlink()
    return dict(found, files=count, most_memory_mb=most / 1024, steps=len(wanted))


def summary(found: dict) -> str:
    """Counts of a result in a line."""
    return ', '.join(
        f'{key} {len(value) if isinstance(value, list) else value}'
        for key, value in found.items()
        if not isinstance(value, dict)
    )


def main(argv=None) -> int:
    """Run the parts that are asked for; status 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=200, help='kills of trainings (200)')
    parser.add_argument('--damaged', type=int, default=300, help='damaged checkpoints (300)')
    parser.add_argument('--forged', type=int, default=300, help='forged checkpoints (300)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', help='file for the figures, as JSON')
    args = parser.parse_args(argv)
    report = {}
    with tempfile.TemporaryDirectory(prefix='campaign') as folder:
        for kind in ('damaged', 'forged'):
            if getattr(args, kind):
                part = Path(folder) / kind
                part.mkdir()
                report[kind] = spoil(getattr(args, kind), part, args.seed, kind)
                print(f'{kind}: {summary(report[kind])}', flush=True)
        if args.kills:
            report['killed'] = kill_trainings(args.kills, Path(folder), args.seed)
            print('killed: ' + summary(report['killed']))
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=1))
    bad = {kind: {k: v for k, v in r.items() if isinstance(v, list)} for kind, r in report.items()}
    for kind, lists in bad.items():
        for name, cases in lists.items():
            for case in cases:
                print(f'{kind}, {name}: {case}')
    return 1 if any(case for lists in bad.values() for case in lists.values()) else 0


if __name__ == '__main__':
    sys.exit(main())
