"""tools/benchmark.py --step: which part is what. No test looks at how long anything took."""

import json
from pathlib import Path

import pytest
import torch
from benchmark import command as tool
from benchmark import runs, step
from benchmark.clock import REST, Clock, Part, followed, methods_of
from benchmark.suites import Setting
from mmengine.config import Config

from gcvit_mm import UserError
from gcvit_mm.cli.measuring import new_model
from gcvit_mm.planning.complexity import build_on_meta, count_macs
from support import running
from support.running import ROOT, one_line_error
from support.ticks import Ticks

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
DET, SEG, CLS = (str(ROOT / name) for name in (running.DET, running.SEG, running.CLS))
NARROW = {
    f'model.{key}': 32
    for key in (
        'neck.out_channels',
        'rpn_head.in_channels',
        'rpn_head.feat_channels',
        'roi_head.bbox_roi_extractor.out_channels',
        'roi_head.bbox_head.in_channels',
        'roi_head.bbox_head.fc_out_channels',
        'roi_head.mask_roi_extractor.out_channels',
        'roi_head.mask_head.in_channels',
        'roi_head.mask_head.conv_out_channels',
    )
}
NARROW.update({'model.test_cfg.rpn.max_per_img': 30, 'model.test_cfg.rcnn.max_per_img': 5})
SIZE = (64, 96)
HEADS = {
    'preprocessing',
    'backbone',
    'neck',
    'rpn_head',
    'rpn_head: losses and assignment',
    'rpn_head: post-processing',
    'roi_head: losses and assignment',
    'roi_head.bbox_roi_extractor',
    'roi_head.bbox_head',
    'roi_head.bbox_head: losses and assignment',
    'roi_head.mask_roi_extractor',
    'roi_head.mask_head',
    'roi_head.mask_head: losses and assignment',
    'optimizer',
    'hooks',
    REST,
}


def make(path, mode='training', batch=1, size=SIZE, dtype='fp32', **options):
    """Steps of a small config."""
    cfg = runs.read_config(path, options, None)
    return runs.make_run(cfg, mode, size and [size], batch, Setting(dtype=dtype))


def names(spent, backward=False):
    """Parts that were on."""
    return {part.name for part in spent if part.backward is backward}


@pytest.fixture(scope='module')
def detector():
    """Training steps of a Mask R-CNN."""
    return make(DET, **NARROW)


# ---------------------------------------------------------------- what is followed
def test_parts_of_a_detector_that_trains(detector):
    """Everything that a Mask R-CNN has, with its backward pass; ticks go where they belong."""
    spent = detector.by_part(Ticks())
    assert names(spent) == HEADS
    without = {'preprocessing', 'rpn_head: post-processing', 'optimizer', 'hooks'}
    assert HEADS - without - names(spent, True) <= {'roi_head: losses and assignment'}
    assert not without & names(spent, True)


@pytest.mark.parametrize(
    ('owner', 'part'),
    [
        ('backbone.stages.1', 'backbone'),
        ('neck', 'neck'),
        ('roi_head.mask_head', 'roi_head.mask_head'),
        ('roi_head.bbox_roi_extractor.roi_layers.0', 'roi_head.bbox_roi_extractor'),
        ('roi_head.bbox_head.loss_cls', 'roi_head.bbox_head: losses and assignment'),
        ('rpn_head.loss_bbox', 'rpn_head: losses and assignment'),
    ],
)
def test_costs_go_to_their_part(detector, monkeypatch, owner, part):
    """A layer that costs 3 forward and 5 backward, each time it runs; nothing else costs."""
    ticks, calls = Ticks(), []
    layer = detector.model.get_submodule(owner)
    compute = layer.forward

    def priced(*args, **kwargs):
        calls.append(1)
        out = compute(*args, **kwargs)
        first = out if isinstance(out, torch.Tensor) else out[0]
        first = ticks.pass_on(first, 3, 5)
        return first if isinstance(out, torch.Tensor) else (first, *out[1:])

    monkeypatch.setattr(layer, 'forward', priced)
    spent = {key: count for key, count in detector.by_part(ticks).items() if count}
    assert spent == {Part(part): 3 * len(calls), Part(part, True): 5 * len(calls)}


def test_nothing_is_left_behind(detector):
    """Methods are the model's own again, also after an error; weights stay as they are."""
    model = detector.model
    before = [p.clone() for p in model.parameters()]
    replaced = [(detector.wrapper, name) for name in ('backward', 'step', 'zero_grad')]
    replaced.append((detector.hooks, 'call'))
    methods = [vars(owner).get(name) for owner, name in replaced]
    detector.by_part(Ticks())
    following = followed(Clock(Ticks()), model, detector.wrapper, detector.hooks)
    with pytest.raises(KeyError), following:
        assert 'forward' in vars(model.backbone) and 'call' in vars(detector.hooks)
        raise KeyError
    for owner, method, _ in methods_of(model):
        assert method not in vars(owner)
    assert methods == [vars(owner).get(name) for owner, name in replaced]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert detector.wrapper.optimizer.state  # though it has taken its steps


def test_hooks_that_act_in_every_step():
    """Those of the config, and no others; what they cost is theirs."""
    ticks = Ticks()
    run = make(CLS, batch=2, custom_hooks=[dict(type='EMAHook', momentum=0.25)])
    (averaged,) = (h.ema_model for h in run.hooks.runner.hooks if type(h).__name__ == 'EMAHook')
    update = averaged.update_parameters

    def priced(model):
        ticks.value += 7
        update(model)

    averaged.update_parameters = priced
    spent = {key: count for key, count in run.by_part(ticks).items() if count}
    assert spent == {Part('hooks'): 7}
    run.step()
    assert averaged.steps == run.hooks.runner.iter == 2
    assert all(group['lr'] == 0 for group in run.wrapper.optimizer.param_groups)
    assert not list(Path(run.hooks.folder.name).rglob('*.pth'))


def test_parts_of_segmentors():
    training = make(SEG, batch=2).by_part(Ticks())
    heads = {'decode_head', 'auxiliary_head'}
    losses = {f'{head}: losses and assignment' for head in heads}
    assert heads | losses | {'backbone', 'optimizer'} <= names(training)
    assert heads | losses | {'backbone'} <= names(training, True)
    evaluation = make(SEG, 'forward').by_part(Ticks())
    assert names(evaluation) == {
        'preprocessing',
        'backbone',
        'decode_head',
        'decode_head: post-processing',
        'post-processing',
        REST,
    }
    assert not names(evaluation, True)


def test_parts_of_classifiers():
    run = make(CLS, batch=2, size=(64, 64))
    spent = run.by_part(Ticks())
    assert {'backbone', 'head', 'head: losses and assignment', 'optimizer'} <= names(spent)
    evaluation = make(CLS, 'forward', size=(64, 64)).by_part(Ticks())
    assert {'backbone', 'head', 'head: post-processing'} <= names(evaluation)


def test_parts_of_transformers():
    """DINO has an encoder, a decoder and, between them, the queries that it selects."""
    from support.detectors import detector

    model = detector('dino_gcvit_t_1x')
    followed_names = {name for _, _, name in methods_of(model)}
    wanted = {'encoder', 'query_selection', 'decoder', 'bbox_head', 'backbone', 'neck'}
    assert wanted <= followed_names
    batch = runs.drawn(Config(dict(model={}, default_scope='mmdet')), (96, 128), 1, 3)
    clock = Clock(Ticks())
    with followed(clock, model):
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        model.parse_losses(losses)
    assert wanted | {'bbox_head: losses and assignment'} <= names(clock.spent)


# ---------------------------------------------------------------- multiply-accumulates
def test_gmacs_are_those_of_the_plan(detector):
    """Of an evaluation, part by part, and of the same parts forward in training."""
    cfg = runs.read_config(DET, NARROW, None)
    run = make(DET, 'forward', **NARROW)
    run.step()
    objects = len(run.results[0].pred_instances)
    assert objects
    with torch.device('meta'):
        wanted = count_macs(build_on_meta(cfg), SIZE, num_boxes=30, num_masks=objects)
    evaluated, trained = run.gmacs(), detector.gmacs()
    for name in ('backbone', 'neck', 'rpn_head'):
        assert evaluated[Part(name)] == pytest.approx(wanted[name], rel=1e-6)
        assert trained[Part(name)] == pytest.approx(wanted[name], rel=1e-6)
    for name in ('bbox_head', 'mask_head'):
        assert evaluated[Part(f'roi_head.{name}')] == pytest.approx(wanted[name], rel=1e-6)
    # a gradient of the input and one of the weight
    assert trained[Part('neck', True)] == pytest.approx(2 * wanted['neck'], rel=1e-6)


def test_recomputation_is_backward():
    """With with_cp the backward pass has what is repeated on top, the forward pass is the same."""
    plain = make(CLS, batch=2, size=(64, 64)).gmacs()
    repeated = make(CLS, batch=2, size=(64, 64), **{'model.backbone.with_cp': True}).gmacs()
    forward = plain[Part('backbone')]
    assert repeated[Part('backbone')] == pytest.approx(forward)
    more = repeated[Part('backbone', True)] - plain[Part('backbone', True)]
    assert 0.5 * forward < more <= forward * (1 + 1e-6)
    for name in ('head', REST):
        assert repeated[Part(name, True)] == pytest.approx(plain[Part(name, True)])


@pytest.mark.parametrize('mode', ['training', 'forward'])
def test_16_bits(mode):
    """Autocast around the forward pass, on a CPU too; weights stay in float32."""
    run = make(CLS, mode, batch=2, size=(64, 64), dtype='bf16')
    seen = []
    run.model.head.fc.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    run.step()
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_models_of_libraries():
    """Read by name, and built without the weights that they name."""
    cfg = runs.read_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', None, None)
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'
    model = new_model(cfg, 'cpu')
    assert model.backbone.init_cfg is None or 'Pretrained' not in str(model.backbone.init_cfg)
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'  # of the config nothing is gone


# ---------------------------------------------------------------- the tool
def call(tmp_path, *argv):
    """Run the tool on few rounds; return what it wrote, and that it drew."""
    out, plot = tmp_path / 'out.json', tmp_path / 'out.png'
    words = [*argv, '--rounds', 2, '--warmups', 0, '--json', out, '--plot', plot]
    tool.main([str(word) for word in words])
    assert plot.stat().st_size > 1000
    return json.loads(out.read_text())['steps']


def options(changes):
    """Changes to a config as words of the command line."""
    return ['--cfg-options', *(f'{key}={value}' for key, value in changes.items())]


def test_tool(tmp_path, monkeypatch, capsys):
    """A detector beside a narrower one: both modes, and that figures fit to each other."""
    monkeypatch.setitem(step.SIDES, 'cpu', 64)
    peer = tmp_path / 'peer.py'
    cfg = Config.fromfile(DET)
    cfg.merge_from_dict({key: value // 2 for key, value in NARROW.items()})
    cfg.dump(peer)
    argv = ('--step', DET, '--against', peer, '--size', *SIZE, '--batch', 2)
    training, evaluation = call(tmp_path, *argv, *options(NARROW))
    assert (training['mode'], evaluation['mode']) == ('training', 'forward')
    assert (training['batch'], evaluation['batch']) == (2, 1)
    for found in (training, evaluation):
        assert found['size'] == list(SIZE) and found['pictures'] == 'drawn'
        assert list(found['rows']) == [DET, str(peer)]
        ours, theirs = found['rows'].values()
        assert 'ratio' not in ours
        a, b = ours['times'], theirs['times']
        assert theirs['ratio']['median'] == pytest.approx((a[0] / b[0] + a[1] / b[1]) / 2)
        for row in (ours, theirs):
            assert row['images_per_s'] == pytest.approx(found['batch'] / row['time']['median'])
            assert sum(part['share'] for part in row['parts']) == pytest.approx(1)
            # of two rounds the median is the mean, so that the parts sum up to the whole
            whole = sum(part['time']['median'] for part in row['parts'])
            assert whole == pytest.approx(row['timed']['median'])
            for part in row['parts']:
                rate = part['gmacs'] / part['time']['median'] / found['product_gmacs_per_s']
                assert (part['of_product'] or 0) == pytest.approx(rate)
        macs = [
            next(p['gmacs'] for p in row['parts'] if p['name'] == 'neck') for row in (ours, theirs)
        ]
        assert macs[0] > macs[1]
    assert {part['name'] for part in ours['parts'] if not part['backward']} > {'roi_head.mask_head'}
    assert 0 < theirs['objects'] <= 2 < ours['objects'] <= 5
    order = [part['name'] for part in training['rows'][DET]['parts']]
    assert order.index('rpn_head') < order.index('rpn_head: losses and assignment')
    assert order.index('optimizer') < order.index(REST) < order.index('neck', order.index(REST))
    printed = capsys.readouterr().out
    assert 'training step, 2x3x64x96, drawn, fp32' in printed
    assert 'evaluation, 1x3x64x96' in printed and 'roi_head.mask_head' in printed


def test_real_pictures(tmp_path, shapes, monkeypatch):
    """They are read by the config's own pipeline, which is a part then."""
    monkeypatch.setitem(step.SIDES, 'cpu', 64)
    argv = ('--step', CLS, '--data-root', shapes / 'imagenet', '--batch', 2)
    training, evaluation = call(tmp_path, *argv)
    for found in (training, evaluation):
        assert found['size'] is None and found['pictures'] == str(shapes / 'imagenet')
        (row,) = found['rows'].values()
        assert 'data' in {part['name'] for part in row['parts']}


def test_modes(tmp_path, monkeypatch):
    monkeypatch.setitem(step.SIDES, 'cpu', 64)
    (found,) = call(tmp_path, '--step', CLS, '--size', 64, 64, '--mode', 'forward')
    assert found['mode'] == 'forward'


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([CLS, '--compile'], '--compile: goes with a subject only'),
        ([CLS, '--suite', 'cpu'], 'give one of'),
        ([CLS, '--against', CLS], 'name each once'),
        ([CLS, '--dtype', 'fp16'], 'CPUs train in fp32 or bf16'),
        ([CLS, '--data-root', 'x', '--size', '64', '64'], 'have sizes of their own'),
        ([CLS, '--data-root', 'nowhere'], 'train_dataloader: nowhere'),
        ([CLS, *options({'model.backbone.compile': True})], 'leave compile out'),
        ([CLS, '--against', 'foo::bar.py'], 'foo::bar.py: libraries with configs are mmdet'),
        ([CLS, '--against', 'mmdet::no/no.py'], 'mmdet::no/no.py is not there'),
        (['configs/nothing.py'], 'config configs/nothing.py does not exist'),
        ([DET], 'how large pictures are cannot be told from the pipeline alone, and no data'),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)  # where there is no data
    with pytest.raises(UserError) as caught:
        size = [] if argv == [DET] or '--size' in argv else ['--size', '64', '64']
        tool.main(['--step', *argv, *(size if '--data-root' not in argv else [])])
    assert message in str(caught.value) and '\n' not in str(caught.value)


def test_config_that_does_not_train(tmp_path):
    path = tmp_path / 'model.py'
    path.write_text("model = dict(backbone=dict(type='GCViT', arch='xxtiny'))\n")
    with pytest.raises(UserError, match='model.py has no optim_wrapper, which --step needs'):
        tool.main(['--step', str(path)])


def test_model_that_cannot_be_built():
    """As a user sees it."""
    argv = ('--step', CLS, '--size', 64, 64, '--cfg-options', 'model.neck.type=Nothing')
    assert 'Nothing' in one_line_error('benchmark.py', *argv)
