"""Run the zoos of mmdet, mmseg and mmpretrain on the operators of gcvit_mm, and write the table.

Of every family (a folder of configs) the config with the smallest backbone by its name is built
without weights and run forward once, in a process of its own; where it fails for a reason that is
no operator, the next one, three at most. --all takes every config. A family whose configs all have
to download something is left out.
"""

import argparse
import importlib
import itertools
import multiprocessing
import os
import os.path as osp
import re
import sys
import warnings
from collections import defaultdict
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

ZOOS = ('mmdet', 'mmseg', 'mmpretrain')
NOT_OFFERED = re.compile(r"does not offer mmcv's operator '(\w+)'")
ATTEMPTS = 3  # configs of a family, until one runs or lacks an operator
DOWNLOAD = (
    'please install|is not installed|offline|huggingface|URLError|ConnectionError|Max retries'
)
BEGIN, END = '<!-- coverage: begin -->', '<!-- coverage: end -->'
# smallest first, as they stand in names of configs
BACKBONES = """atto nano pico femto xxs xs lenet tiny mobile shuffle _t_ -t_ -t- r18 res18 18d
    res34 r34 small _s_ -s_ -s- _b0 -b0 mit-b0 b0_ r50 res50 resnet50 vgg _b_ base""".split()
# sides of an image: some models take no small one; 0 for what the config says
SIDES = {'mmdet': (128, 384), 'mmseg': (256, 0), 'mmpretrain': (224, 0)}


class Result(NamedTuple):
    """What became of a config.

    Args:
        zoo: One of :data:`ZOOS`.
        family: Folder of the config.
        config: Its name.
        state: 'runs', 'missing', 'download' or 'other'.
        detail: Operators used; or the operator that is missing; or the reason.
    """

    zoo: str
    family: str
    config: str
    state: str
    detail: str


def zoo_folder(zoo: str) -> str:
    """Where the configs of an installed zoo are."""
    folder = osp.dirname(importlib.import_module(zoo).__file__ or '')
    return osp.join(folder, '.mim', 'configs')


def size_of(name: str) -> Tuple[int, int, str]:
    """What configs are sorted by, the smallest model first."""
    found = [i for i, token in enumerate(BACKBONES) if token in name]
    return (min(found) if found else len(BACKBONES), len(name), name)


def has_model(path: str) -> bool:
    """Whether a config has a model, its own or that of a base; some are parts of others."""
    from mmengine.config import Config

    try:
        return 'model' in Config.fromfile(path, import_custom_modules=False)
    except Exception:  # it will say so when it is built
        return True


def configs(zoo: str, every: bool, only: List[str]) -> Iterator[Tuple[str, List[str]]]:
    """Families and their configs, the smallest first, some or all."""
    root = zoo_folder(zoo)
    for family in only or sorted(os.listdir(root)):
        paths = []
        for folder, _, files in os.walk(osp.join(root, family)):
            paths += [osp.join(folder, file) for file in files if file.endswith('.py')]
        paths = [p for p in paths if '_base_' not in p and 'metafile' not in p]
        paths.sort(key=lambda path: size_of(osp.basename(path)))
        complete = (path for path in paths if has_model(path))
        chosen = list(complete) if every else list(itertools.islice(complete, ATTEMPTS))
        if chosen and family != '_base_':
            yield family, chosen


def sample(zoo: str, cfg: Any, side: int) -> Dict[str, Any]:
    """Inputs of a model, and what it is asked for."""
    import torch

    if zoo == 'mmseg':
        from mmseg.structures import SegDataSample

        channels = len(cfg.model.data_preprocessor.get('mean') or [0] * 3)
        one = SegDataSample(metainfo=dict(img_shape=(side, side), ori_shape=(side, side)))
        image = torch.randint(0, 255, (channels, side, side), dtype=torch.uint8)
        return dict(inputs=[image], data_samples=[one])
    if zoo == 'mmdet':
        from mmdet.testing import demo_mm_inputs, demo_track_inputs

        text = repr(cfg.model)
        if 'tracker' in cfg.model or 'TrackDataPreprocessor' in text:
            return demo_track_inputs(1, 1, image_shapes=(3, side, side), num_classes=1)
        if cfg.model.type == 'BaseReID':  # its last pooling is of a fixed size
            return demo_mm_inputs(1, (3, 256, 128), num_items=[1])
        return demo_mm_inputs(1, (3, side, side), num_items=[2], with_mask=True, num_classes=2)
    return dict(inputs=torch.rand(1, 3, side, side))


def record(used: set) -> None:
    """Note the operators that are called from now on."""
    import mmcv.ops  # noqa: F401

    from gcvit_mm.ops import OPERATORS, standin

    extension = sys.modules[standin.MODULE]
    for name in OPERATORS:
        function = getattr(extension, name)

        def noting(*args: Any, _name: str = name, _function: Any = function, **kwargs: Any) -> Any:
            used.add(re.sub('_(forward|backward).*', '', _name))
            return _function(*args, **kwargs)

        setattr(extension, name, noting)
    attention = sys.modules[standin.ATTENTION]
    plain = attention.multi_scale_deformable_attn_pytorch

    def noting_attention(*args: Any, **kwargs: Any) -> Any:
        used.add('ms_deform_attn')
        return plain(*args, **kwargs)

    setattr(attention, plain.__name__, noting_attention)  # noqa: B010


def run(zoo: str, path: str, side: int, used: set) -> Tuple[str, str]:
    """Build a config and run it forward; the state and the detail of :class:`Result`."""
    import torch
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    used.clear()
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope', zoo))
    if not side:  # what the config is for
        wanted = cfg.get('crop_size') or cfg.model.backbone.get('img_size') or 0
        side = max(wanted) if isinstance(wanted, (list, tuple)) else wanted
    if not cfg.model.get('data_preprocessor') and cfg.get('data_preprocessor'):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    data = sample(zoo, cfg, side)
    with torch.no_grad():
        if zoo == 'mmdet':
            data = model.data_preprocessor(data, False)
            for one in data['data_samples']:
                if hasattr(one, 'set_metainfo'):
                    one.set_metainfo(dict(org_width=side, org_height=side))  # read by CLRNet
            if 'proposals' in cfg or type(model).__name__ == 'FastRCNN':
                from mmdet.testing import demo_mm_proposals

                data['data_samples'][0].proposals = demo_mm_proposals([(3, side, side)], 10)[0]
            model(**data, mode='predict')
        elif zoo == 'mmseg':
            model(**model.data_preprocessor(data, False), mode='predict')
        else:
            model(data['inputs'], mode='tensor')
    return 'runs', ', '.join(sorted(used))


def reason(error: BaseException) -> Tuple[str, str]:
    """State and detail of an error."""
    chain: List[BaseException] = []
    link: Optional[BaseException] = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    text = re.sub(r'(?<=["\' ])/\S*/', '', ' '.join(str(error).split()))  # no folders of a machine
    every = ' '.join(f'{type(e).__name__} {e}' for e in chain)
    missing = NOT_OFFERED.search(every)
    if missing:
        return 'missing', missing.group(1)
    if re.search(DOWNLOAD, every, re.I):
        return 'download', text[:100]
    return 'other', f'{type(error).__name__}: {text[:100]}'


def child(zoo: str, path: str, pipe: Any) -> None:
    """Run a config and send what became of it."""
    warnings.simplefilter('ignore')
    sys.stdout = sys.stderr = open(os.devnull, 'w')
    import torch.distributed as dist

    # mmcv's SyncBatchNorm asks for a group when it is built
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    os.chdir(osp.dirname(zoo_folder(zoo)))  # some configs name others from here
    used: set = set()
    record(used)
    for side in SIDES[zoo]:
        try:
            answer = run(zoo, path, side, used)
        except BaseException as error:
            answer = reason(error)
        if answer[0] != 'other':
            break
    pipe.send(answer)


def guarded(zoo: str, path: str, timeout: float) -> Tuple[str, str]:
    """:func:`run` in a process of its own."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(zoo, path, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answer = ours.recv() if ours.poll(timeout) else ('other', f'no end within {timeout:g} s')
    except EOFError:
        answer = ('other', 'the process died (memory?)')
    process.kill()
    process.join()
    return answer


def survey(zoo: str, every: bool, timeout: float, only: List[str]) -> Iterator[Result]:
    """Run a zoo."""
    importlib.import_module(f'{zoo}.utils').register_all_modules(False)
    for family, paths in configs(zoo, every, only):
        for path in paths:
            state, detail = guarded(zoo, path, timeout)
            yield Result(zoo, family, osp.relpath(path, zoo_folder(zoo)), state, detail)
            if state in ('runs', 'missing') and not every:
                break


def table(results: List[Result]) -> List[str]:
    """The results as Markdown: counts, then families by what they use or lack."""
    rows = ['| zoo | families | run | lack an operator | fail otherwise | need a download |']
    rows.append('|---|---|---|---|---|---|')
    for zoo in ZOOS:
        states = defaultdict(set)
        for result in results:
            if result.zoo == zoo:
                states[result.family].add(result.state)
        count = defaultdict(int)
        for found in states.values():
            order = ('missing', 'runs', 'other', 'download')
            count[next(state for state in order if state in found)] += 1
        if states:
            rows.append(
                f'| {zoo} | {len(states)} | {count["runs"]} | {count["missing"]} | '
                f'{count["other"]} | {count["download"]} |'
            )
    groups: Dict[Tuple[str, str, str], List[str]] = defaultdict(list)
    for result in results:
        names = groups[(result.state, result.zoo, result.detail)]
        name = result.family if result.state in ('runs', 'missing') else result.config[:-3]
        if name not in names:
            names.append(name)
    titles = {
        'runs': ('Families that run', 'operators of `mmcv.ops` in a forward'),
        'missing': ('Families that lack an operator', 'operator'),
        'other': ('Configs that fail for another reason', 'reason'),
        'download': ('Configs that want a download, of weights or of a package', 'what'),
    }
    for state, (title, head) in titles.items():
        found_groups = sorted(key for key in groups if key[0] == state)
        if found_groups:
            rows += ['', f'{title}:', '', f'| zoo | {head} | which |', '|---|---|---|']
        for key in found_groups:
            detail = key[2].replace('|', '\\|').replace('<', '&lt;') or 'none'
            rows.append(f'| {key[1]} | {detail} | {", ".join(groups[key])} |')
    return rows


def write(path: str, rows: List[str]) -> None:
    """Put the table between its marks in a page."""
    with open(path, encoding='utf-8') as file:
        text = file.read()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    with open(path, 'w', encoding='utf-8') as file:
        file.write(head + BEGIN + '\n\n' + '\n'.join(rows) + '\n\n' + END + tail)


def main() -> int:
    """Survey the zoos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('zoos', nargs='*', default=ZOOS, help='of mmdet, mmseg and mmpretrain')
    parser.add_argument('--all', action='store_true', help='every config, not one a family')
    parser.add_argument('--family', action='append', default=[], help='only this family')
    parser.add_argument('--timeout', type=float, default=300, help='seconds a config')
    parser.add_argument('--write', metavar='PAGE', help='a page to put the table in')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ.update(GCVIT_MM_OPS='torch', HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')

    import gcvit_mm  # noqa: F401

    results: List[Result] = []
    for zoo in args.zoos:
        for result in survey(zoo, args.all, args.timeout, args.family):
            results.append(result)
            print('  '.join(result), flush=True)
    rows = table(results)
    print('\n'.join(rows))
    if args.write:
        write(args.write, rows)
    return int(any(result.state == 'missing' for result in results))


if __name__ == '__main__':
    sys.exit(main())
