"""tools/benchmark.py and what it measures with. No test looks at how long anything took."""

import json

import pytest
import torch
import torch.nn.functional as F
from benchmark import ablations, contenders, operators, runs, suites
from benchmark import command as tool
from benchmark import compare as comparing
from benchmark import measure as benchmark
from benchmark.plain import plain_twin
from torch import nn

from gcvit_mm import GCViT, UserError
from gcvit_mm.layers import GlobalAttention
from gcvit_mm.layers.recompute import RecomputedAttention
from support.running import ROOT, one_line_error

TINY = "GCViT(arch='xxtiny', out_indices=(0, 1))"
# Two stages of two blocks, with layer scales.
SCALED = dict(
    embed_dims=16,
    depths=(2, 2, 1, 1),
    num_heads=(2, 4, 4, 4),
    mlp_ratio=2.0,
    layer_scale=1e-5,
    window_size=(4, 5, 3, 3),
    drop_path_rate=0.0,
)


class Allocating(nn.Module):
    """Four buffers of 1 MiB a pass, never more than two of them at once."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        a = torch.ones(2**18)
        b = a * 2
        del a
        c = b * 2
        del b
        return c * self.weight


class Probe(nn.Module):
    """Notes how it is called."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.calls = []

    def forward(self, x):
        out = self.conv(x)
        self.calls.append((torch.is_grad_enabled(), out.dtype))
        return (out,)


# ----------------------------------------------------------------- measuring
def test_quartiles_and_paired_ratios():
    assert benchmark.quartiles([5, 1, 2, 4, 3]) == (3, 2, 4)
    # Every round twice as slow as its partner, though the machine slows down meanwhile.
    assert benchmark.ratio([2, 4, 20], [1, 2, 10]) == (2, 2, 2)


def test_rounds_are_interleaved_and_reversed():
    calls = []
    passes = {name: (lambda name=name: calls.append(name)) for name in 'abc'}
    times = benchmark.interleave(passes, rounds=3, warmups=2, device='cpu')
    assert ''.join(calls) == 'abc' + 'cba' + 'abc' + 'cba' + 'abc'
    assert {name: len(seconds) for name, seconds in times.items()} == dict(a=3, b=3, c=3)


def test_peak_memory_of_a_known_pass():
    """Two of the four buffers live together at most; the rest is a few scalars."""
    model = Allocating()
    run = benchmark.make_pass(model, torch.zeros(1), backward=False)
    run()
    assert benchmark.peak_memory(run, model) == pytest.approx(2, abs=0.01)


def test_peak_memory_counts_what_a_backward_pass_needs():
    """The gradient of a weight of 4 MiB counts, in the second pass as in the first."""
    model = nn.Linear(1024, 1024, bias=False)
    images = torch.randn(8, 1024)
    forward = benchmark.make_pass(model, images, backward=False)
    training = benchmark.make_pass(model, images, backward=True)
    training()
    first, second = (benchmark.peak_memory(training, model) for _ in range(2))
    assert first == second
    assert 4 < first < 4.2
    assert benchmark.peak_memory(forward, model) < 0.1
    assert benchmark.weight_memory(model) == 4


def test_shared_weights_count_once():
    layer = nn.Linear(512, 512, bias=False)
    assert benchmark.weight_memory(nn.Sequential(layer, layer)) == 1


def test_passes_run_as_asked():
    """Gradients only in training; 16 bits only where asked."""
    model, images = Probe(), torch.randn(1, 3, 8, 8)
    benchmark.make_pass(model, images, backward=False)()
    assert model.conv.weight.grad is None
    benchmark.make_pass(model, images, backward=True)()
    once = model.conv.weight.grad.clone()
    assert once.abs().max() > 0
    twice = benchmark.make_pass(model, images, backward=True, dtype='bf16')
    twice()
    twice()  # gradients do not add up over the passes
    assert model.conv.weight.grad.norm() < 1.1 * once.norm()
    assert model.calls == [
        (False, torch.float32),
        (True, torch.float32),
        (True, torch.bfloat16),
        (True, torch.bfloat16),
    ]


def test_macs_of_known_layers():
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert benchmark.count_gmacs(conv, (10, 20)) == pytest.approx(3 * 8 * 9 * 200 / 1e9)

    class Attending(GlobalAttention):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1))

    model, n = Attending(3, 1), 10 * 20
    assert benchmark.count_gmacs(model, (10, 20), True) == pytest.approx(2 * n * n * 3 / 1e9)
    linear = n * 4 * 3 * 3
    total = (2 * n * n * 3 + linear) / 1e9
    assert benchmark.count_gmacs(model, (10, 20)) == pytest.approx(total)
    assert next(model.parameters()).device.type == 'cpu'


def test_macs_of_gcvit_are_the_papers():
    """4.7 G at 224 (Table 1), the head included, which is 0.5 M."""
    model = contenders.build("GCViT(arch='tiny', out_indices=(3,))")
    assert benchmark.count_gmacs(model, (224, 224)) == pytest.approx(4.7, abs=0.1)


def test_exponent():
    assert benchmark.exponent([1, 2, 4], [3, 3 * 2**1.5, 3 * 4**1.5]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    'spec',
    [
        "GCViT(arch='xxtiny', drop_path_rate=0.5, drop_rate=0.5, attn_drop_rate=0.5)",
        'ScalableViT(drop_path_rate=0.5, attn_drop_rate=0.5, out_indices=(0, 1))',
        'mmdet-swin-t',
    ],
)
def test_nothing_is_random(spec):
    """Two training passes agree, whatever rates the backbone was built with."""
    if spec in contenders.PEERS:
        pytest.importorskip('mmdet')
    model, images = contenders.build(spec), torch.randn(2, 3, 64, 64)
    model.train()
    for a, b in zip(model(images), model(images)):
        assert torch.equal(a, b)


# -------------------------------------------------------------------- parity
@pytest.mark.parametrize('size', [(64, 64), (70, 101)])
@pytest.mark.parametrize(
    'options',
    [
        dict(arch='xxtiny'),
        dict(arch='xxtiny', window_size=(16, 9, 4, 4), query_pools=(3, 2, 1, 0)),
        dict(arch='xxtiny', out_indices=(1, 2)),
        dict(arch=dict(SCALED), out_indices=(0, 1)),
    ],
)
def test_transcription_computes_the_same(options, size):
    """Outputs and gradients, two images with queries of their own."""
    model = benchmark.make_deterministic(GCViT(**options))
    twin = contenders.build_peer('transcription', model, size)
    found = benchmark.check_parity(model, twin, torch.randn(2, 3, *size), True, 'transcription')
    assert found['outputs'] < 1e-5
    assert found['gradients'] < 1e-4


def test_transcription_uses_nothing_of_ours():
    """Otherwise a fault of ours would stand on both sides."""
    twin = plain_twin(GCViT('xxtiny'))
    modules = {type(module).__module__ for module in twin.modules()}
    assert not [name for name in modules if name.startswith('gcvit_mm')]


@pytest.mark.parametrize('arch', ['xxtiny', dict(SCALED)])
def test_small_faults_of_attention_show(arch):
    """With fresh weights, or layer scales of 1e-5, a comparison would not see them."""
    model = GCViT(arch, out_indices=(0, 1))
    twin = contenders.build_peer('transcription', model, (64, 64))
    twin.stages[0].blocks[0].attn.scale *= 1.01
    with pytest.raises(UserError, match='outputs differ'):
        benchmark.check_parity(model, twin, torch.randn(1, 3, 64, 64), False, 'transcription')


class Record(list):
    """Calls of attention: (bias, query) of torch's own, None of the one that recomputes."""

    def __init__(self, monkeypatch):
        fused = F.scaled_dot_product_attention
        recompute = RecomputedAttention.apply

        self.cudnn = []  # whether torch might have chosen cuDNN's

        def note_fused(q, k, v, *args, **kwargs):
            self.append((args[0] if args else None, q))
            self.cudnn.append(torch.backends.cuda.cudnn_sdp_enabled())
            return fused(q, k, v, *args, **kwargs)

        def note_recomputed(*args):
            self.append(None)
            return recompute(*args)

        monkeypatch.setattr(F, 'scaled_dot_product_attention', note_fused)
        monkeypatch.setattr(RecomputedAttention, 'apply', note_recomputed)

    def calls(self, run):
        self.clear()
        self.cudnn.clear()
        run()
        return list(self)


@pytest.mark.parametrize('name', ablations.MEANS)
def test_parts_that_are_taken_out(name, monkeypatch):
    """The copy computes the same and lacks the part; the subject keeps it."""
    record = Record(monkeypatch)
    model = contenders.build("GCViT(arch='xxtiny', out_indices=(1,))")
    twin = contenders.build_peer(name, model, (64, 64))
    images = torch.randn(1, 3, 70, 101)
    found = benchmark.check_parity(model, twin, images, True, name)
    assert found['outputs'] < 1e-5 and found['gradients'] < 1e-4

    def traces(one):
        """What shows that the part is there."""
        evaluation = benchmark.make_pass(one.eval(), images, backward=False)
        evaluated = record.calls(evaluation)
        trained = record.calls(benchmark.make_pass(one.train(), images, backward=True))
        return {
            'without-fused-attention': bool(evaluated) and bool(trained),
            'without-recomputed-attention': None in trained,
            'without-aligned-bias': all(bias.stride(-2) == 56 for bias, _ in evaluated),
            'without-expanded-query': any(q.stride(0) == 0 for _, q in evaluated),
            'without-channels-last': not one.patch_embed.proj.weight.is_contiguous(),
            'with-cudnn-attention': not any(record.cudnn),
        }[name]

    for _ in range(2):  # running the copy changes nothing about the subject
        assert traces(model)
        assert not traces(twin)


def test_timm_computes_the_same():
    pytest.importorskip('timm')
    model = contenders.build("GCViT(arch='xxtiny')")
    twin = contenders.build_peer('timm', model, (224, 224))
    found = benchmark.check_parity(model, twin, torch.randn(1, 3, 224, 224), False, 'timm')
    assert found['outputs'] < 1e-5
    assert found['gradients'] is None


@pytest.mark.parametrize('backward', [False, True])
def test_wrong_outputs_are_an_error(backward):
    model = contenders.build(TINY)
    twin = contenders.build_peer('transcription', model, (64, 64))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        twin.stages[1].blocks[1].attn.rel_pos.relative_position_bias_table[0] += 1
    with pytest.raises(UserError, match=r'peer: its outputs differ by .* \(limit 1e-04\)'):
        benchmark.check_parity(model, twin, images, backward, 'peer')
    with torch.no_grad():
        twin.norm1.bias.fill_(float('nan'))
    with pytest.raises(UserError, match='outputs differ by nan'):
        benchmark.check_parity(model, twin, images, backward, 'peer')


def test_wrong_gradients_are_an_error():
    """A detached branch changes no output."""
    model = contenders.build(TINY)
    twin = contenders.build_peer('transcription', model, (64, 64))
    twin.stages[0].blocks[0].mlp.register_forward_hook(lambda module, args, out: out.detach())
    images = torch.randn(1, 3, 64, 64)
    benchmark.check_parity(model, twin, images, False, 'peer')
    with pytest.raises(UserError, match='gradients differ'):
        benchmark.check_parity(model, twin, images, True, 'peer')


def test_a_tie_is_no_difference():
    """One that pooling breaks otherwise is gone in the mirrored images; a fault is not."""

    class Pooled(nn.Module):
        def __init__(self, tie):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([2.0, 2.0 + tie]))

        def forward(self, x):
            return (x[..., :2] * self.weight).amax(-1, keepdim=True)

    images = torch.tensor([1.0, 1.0, 3.0]).repeat(1, 1, 2, 1)
    first, second = Pooled(1e-6), Pooled(-1e-6)
    found = benchmark.check_parity(first, second, images, True, 'peer')
    assert found['gradients'] < 1e-5
    with pytest.raises(UserError, match='gradients differ'):
        benchmark.check_parity(first, second, images[..., :2], True, 'peer')


def test_other_shapes_are_an_error():
    model, other = contenders.build(TINY), contenders.build("GCViT(arch='xxtiny')")
    with pytest.raises(UserError, match='outputs differ by inf'):
        benchmark.check_parity(model, other, torch.randn(1, 3, 64, 64), False, 'peer')


# ---------------------------------------------------------------- contenders
def test_configs_run_without_weights():
    """A leaf, a leaf with options, a base; none of them loads anything."""
    model = contenders.build(str(ROOT / 'configs/mask_gcvit_t_3x.py'))
    assert model.stages[0].blocks[0].attn.window_size == (16, 16)
    assert model.init_cfg is None
    options = {'model.backbone.window_size': 8}
    model = contenders.build(str(ROOT / 'configs/mask_gcvit_t_3x.py'), options)
    assert model.stages[0].blocks[0].attn.window_size == (8, 8)
    base = str(ROOT / 'configs/_base_/backbones/gcvit_t.py')
    options = {'model.backbone.arch': 'xxtiny'}
    assert contenders.build(base, options).depths == (2, 2, 6, 2)


def test_suite_measures_the_shipped_detector():
    """Windows and pools of the bars are those of the configs."""
    for spec, name in ((suites.W16, 'mask_gcvit_t_3x'), (suites.W24, 'mask_gcvit_t_w24_3x')):
        ours = contenders.read_backbone(str(ROOT / f'configs/{name}.py'), None)
        assert {k: v for k, v in ours.items() if k != 'drop_path_rate'} == {
            k: list(v) if k == 'query_pools' and isinstance(ours[k], list) else v
            for k, v in contenders.parse_call(spec).items()
        }


@pytest.mark.parametrize('name', suites.SUITES)
def test_bars_can_be_built(name):
    """Every subject and every peer that needs no other package; titles are unambiguous."""
    bars = suites.SUITES[name]
    assert len({bar.title for bar in bars}) == len(bars)
    for bar in bars:
        if bar.quantity not in ('step', 'steps'):
            with torch.device('meta'):
                contenders.build(bar.subject)
        known = [*contenders.SAME, *contenders.PEERS, *(other.subject for other in bars), None]
        assert bar.peer in known or bar.quantity in ('step', 'steps')


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        (
            'nothing',
            "'nothing' is no config file, .* peers are transcription, timm, without-fused",
        ),
        ("GCViT('tiny')", 'is no config file, no call such as'),
        ("GCViT(arch=__import__('os'))", 'is no config file, no call such as'),
        ("GCViT(arch='tyni')", "has no arch 'tyni'; it knows"),
        ('GCViT(size=3)', "has no argument 'size'"),
        ('Nothing()', 'Nothing() cannot be built: Nothing is not in the mmengine::model registry'),
        ('configs/nothing.py', 'configs/nothing.py does not exist'),
    ],
)
def test_bad_subject(spec, message):
    with pytest.raises(UserError) as caught:
        contenders.build(spec)
    text = str(caught.value)
    assert '\n' not in text
    for part in message.split(' .* '):
        assert part in text


@pytest.mark.parametrize(
    ('spec', 'peer', 'message'),
    [
        ('mmdet-swin-t', 'without-aligned-bias', 'SwinTransformer is no backbone of gcvit_mm'),
        ("GCViT(arch='xxtiny', with_cp=True)", 'without-aligned-bias', 'without with_cp'),
        ("GGTransformer(arch='tiny')", 'timm', 'no peer of GGTransformer'),
        (TINY, 'swin', "'swin' is no config file"),
        ("GCViT(arch='xxtiny')", 'timm', '--size 224 224'),
        ("GCViT(arch='tiny2')", 'timm', 'timm has no GC ViT of arch tiny2'),
        ("GCViT(arch='xxtiny', window_size=7)", 'timm', 'windows'),
        ("GCViT(arch='xxtiny', global_query='none')", 'transcription', 'shared query'),
        ("GCViT(arch='xxtiny', rel_pos_bias=False)", 'transcription', 'transcription: Error'),
    ],
)
def test_bad_peer(spec, peer, message):
    if peer == 'timm':
        pytest.importorskip('timm')
    if spec in contenders.PEERS:
        pytest.importorskip('mmdet')
    with pytest.raises(UserError) as caught:
        contenders.build_peer(peer, contenders.build(spec), (64, 64))
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


# ---------------------------------------------------------------------- tool
def run(tmp_path, *argv):
    """Run the tool on few rounds; return what it wrote, and that it drew."""
    out = tmp_path / 'out.json'
    plot = tmp_path / 'out.png'
    words = [*argv, '--rounds', '2', '--warmups', '1', '--json', out, '--plot', plot]
    tool.main([str(word) for word in words])
    assert plot.stat().st_size > 1000
    return json.loads(out.read_text())


def test_comparison(tmp_path, capsys):
    """Both modes, two peers: what is written, and that ratios are those of the figures."""
    other = "GCViT(arch='xxtiny', out_indices=(0,))"
    argv = (TINY, '--against', 'transcription', other, '--size', 64, 96, '--batch', 2)
    report = run(tmp_path, *argv)
    assert set(report['setting']) == {
        'device',
        'threads',
        'load_at_start',
        'torch',
        'gcvit_mm',
        'rounds',
        'warmups',
    }
    assert [found['mode'] for found in report['comparisons']] == ['forward', 'training']
    for found in report['comparisons']:
        assert found['size'] == [64, 96] and found['batch'] == 2 and found['dtype'] == 'fp32'
        subject, plain, smaller = found['rows'].values()
        assert list(found['rows']) == [TINY, 'transcription', other]
        assert subject['gmacs'] == pytest.approx(plain['gmacs'])
        assert smaller['gmacs'] < subject['gmacs']
        for row in (plain, smaller):
            a, b = subject['times'], row['times']
            assert row['images_per_s'] == pytest.approx(2 / row['time']['median'])
            assert len(a) == len(b) == 2 and min(*a, *b) > 0
            assert row['time_ratio']['median'] == pytest.approx((a[0] / b[0] + a[1] / b[1]) / 2)
            assert row['memory_ratio'] == subject['memory_mib'] / row['memory_mib']
            assert row['time_per_gmac_ratio'] == pytest.approx(
                row['time_ratio']['median'] * row['gmacs'] / subject['gmacs']
            )
        assert plain['parity']['outputs'] < 1e-4
        assert (plain['parity']['gradients'] is None) == (found['mode'] == 'forward')
        assert subject['parity'] is None and smaller['parity'] is None
    forward, training = report['comparisons']
    assert training['rows'][TINY]['pass_mib'] > forward['rows'][TINY]['pass_mib']
    printed = capsys.readouterr().out
    assert 'forward, 2x3x64x96, fp32' in printed and 'transcription' in printed
    assert 'images/s' in printed and f'{subject["images_per_s"]:.4g}' in printed


def test_recomputation_needs_less_memory(tmp_path):
    """What with_cp is for, by the tool's own account."""
    spec = "GCViT(arch='xxtiny', with_cp=True)"
    argv = (spec, '--against', "GCViT(arch='xxtiny')", '--size', 192, 192, '--mode', 'training')
    row = run(tmp_path, *argv)['comparisons'][0]['rows']["GCViT(arch='xxtiny')"]
    assert row['memory_ratio'] < 0.9


def test_different_mathematics_are_not_timed(monkeypatch):
    """The comparison ends before anything is timed."""

    def wrong_twin(model):
        twin = plain_twin(model)
        twin.stages[0].blocks[0].attn.scale *= 1.1
        return twin

    monkeypatch.setattr(contenders, 'plain_twin', wrong_twin)
    monkeypatch.setattr(benchmark, 'interleave', lambda *args: pytest.fail('timed'))
    with pytest.raises(UserError, match='transcription: its outputs differ'):
        tool.main([TINY, '--against', 'transcription', '--size', '64', '64'])


def test_later_failure_loses_no_figure(tmp_path, monkeypatch):
    """What was measured before a bar that fails stands in the files."""
    bars = [suites.Bar(TINY, None, 'ms', limit) for limit in (1.0, 2.0, 3.0)]

    def measured(bar, setting):
        if bar.limit == 3.0:
            raise RuntimeError('out of memory')
        return bar.limit, None

    monkeypatch.setitem(suites.SUITES, 'cpu', bars)
    monkeypatch.setattr(comparing, 'measure', measured)
    with pytest.raises(RuntimeError, match='out of memory'):
        run(tmp_path, '--suite', 'cpu')
    rows = json.loads((tmp_path / 'out.json').read_text())['bars']
    assert [row['value'] for row in rows] == [1.0, 2.0]


def test_operators(tmp_path, monkeypatch, capsys):
    """Operator, size, times and their ratio; one that nobody compiled has none."""
    rows = [
        operators.Row('nms', '1000 boxes', 0.001, 0.004, 'mmcv'),
        operators.Row('carafe', '1x8x9x9', 0.002, None, 'mmcv'),
    ]
    monkeypatch.setattr(
        tool, 'measure_ops', lambda repeats, only: [r for r in rows if only in r[0]]
    )
    found = run(tmp_path, '--operators')['operators']
    assert [row['operator'] for row in found] == ['nms', 'carafe']
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['nms', '1000', 'boxes', '1.0', 'ms', '4.0', 'ms', '0.25'] in lines
    assert ['carafe', '1x8x9x9', '2.0', 'ms', '-', 'ms', '-'] in lines
    assert len(run(tmp_path, '--operators', '--only', 'nms')['operators']) == 1


def test_suite(tmp_path, monkeypatch, capsys):
    """Values, limits and verdicts; a missed bar ends with status 1, after the files."""
    other = "GCViT(arch='xxtiny', out_indices=(0,))"
    small = dict(size=(64, 64))
    bars = [
        suites.Bar(TINY, 'transcription', 'time', 1e9, **small),
        suites.Bar(TINY, other, 'memory', 0.5, mode='training', **small),
        suites.Bar(TINY, other, 'throughput', 1e9, dtype='bf16', **small),
        suites.Bar(TINY, None, 'ms', 1e9, **small),
    ]
    monkeypatch.setitem(suites.SUITES, 'cpu', bars)
    with pytest.raises(SystemExit, match='1'):
        run(tmp_path, '--suite', 'cpu')
    rows = json.loads((tmp_path / 'out.json').read_text())['bars']
    assert [row['passed'] for row in rows] == [True, False, False, True]
    memory = rows[1]['comparison']['rows'][other]
    assert rows[1]['value'] == memory['memory_ratio'] > 1
    assert memory['times'] is None  # memory alone is not timed
    throughput = rows[2]['comparison']
    assert throughput['dtype'] == 'bf16'
    assert rows[2]['value'] == 1 / throughput['rows'][other]['time_ratio']['median']
    printed = [line for line in capsys.readouterr().out.splitlines() if 'GCViT' in line]
    assert [line.split()[0] for line in printed] == ['pass', 'FAIL', 'FAIL', 'pass']
    assert run(tmp_path, '--suite', 'cpu', '--only', 'over transcription')['bars'][0]['passed']
    with pytest.raises(UserError, match="--only 'nothing'"):
        run(tmp_path, '--suite', 'cpu', '--only', 'nothing')


def test_growth(tmp_path, monkeypatch, capsys):
    """Curves and exponents; counts of windows that fit grow with the pixels exactly."""
    spec = "GCViT(arch='xxtiny', window_size=4, query_pools=(0, 0, 0, 0), out_indices=(0,))"
    for module in (tool, comparing):
        monkeypatch.setattr(module, 'FAMILIES', {'tiny': (spec, '1'), 'other': (spec, '1')})
    report = run(tmp_path, '--growth', '--sides', 128, 64, 32, '--only', 'tiny')
    (row,) = report['growth']
    assert (row['family'], row['mode'], row['sides']) == ('tiny', 'forward', [32, 64, 128])
    assert row['exponents']['attention GMACs'] == pytest.approx(1)
    assert row['exponents']['GMACs'] == pytest.approx(1, abs=1e-3)
    counted = row['curves']['GMACs']
    assert row['exponents']['GMACs'] == benchmark.exponent([32**2, 64**2, 128**2], counted)
    assert 0.8 < row['exponents']['memory'] < 1.2
    assert all(seconds > 0 for seconds in row['curves']['time'])
    assert 'tiny' in capsys.readouterr().out


def test_stripes_grow_by_the_power_of_one_and_a_half():
    """What the growth of GPViT is held against is what its attention costs."""
    model = contenders.build("GPViT(arch='L1', out_indices=(0,))")
    counts = [benchmark.count_gmacs(model, (side, side), True) for side in (512, 1024, 2048)]
    assert benchmark.exponent([512**2, 1024**2, 2048**2], counts) == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], 'give one of: a subject, --suite, --growth'),
        ([TINY, '--growth'], 'give one of'),
        ([TINY, '--rounds', '0'], 'must be at least 1'),
        ([TINY, '--against', TINY], 'name each once'),
        (
            [TINY, '--compile', '--against', 'without-aligned-bias'],
            'without-aligned-bias: parts are taken out of eager models only',
        ),
        (['--growth', '--sides', '64', '64'], 'two sizes'),
        (['--growth', '--only', 'nothing'], "--only 'nothing': families are GC ViT-T"),
        (['--suite', 'gpu'], '--suite gpu needs --device cuda'),
        ([TINY, '--batch', '0'], 'must be at least 1'),
        ([TINY, '--table', 'gcvit2'], 'give one of'),
        (['--table', 'gcvit2', '--compile'], '--compile: goes with a subject only'),
        (['--table', 'gcvit2', '--only', 'XL'], 'models of gcvit2 are GC ViT-XXT, GC ViT-XT'),
    ],
)
def test_bad_arguments(argv, message):
    with pytest.raises(UserError) as caught:
        tool.main(argv)
    assert message in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu():
    with pytest.raises(UserError, match='torch finds no GPU'):
        tool.main([TINY, '--device', 'cuda'])


def test_unknown_peer_is_one_line():
    """As a user sees it."""
    error = one_line_error('benchmark.py', TINY, '--against', 'swin', '--size', 32, 32)
    assert "'swin' is no config file" in error and 'mmdet-swin-t' in error


def test_steps_of_many_shapes():
    """A batch of each, in their order; the shapes are those of multi-scale training."""
    pytest.importorskip('mmdet')
    shapes = comparing.step_shapes()
    assert len(shapes) == suites.STEP_SHAPES == len(set(shapes))
    assert {min(shape) for shape in shapes} <= set(range(480, 801, 32))
    assert max(map(max, shapes)) <= 1333
    cfg = runs.read_config(str(ROOT / 'configs/mask_gcvit_xxt_shapes.py'), None, None)
    run = runs.make_run(cfg, 'training', [(64, 96), (96, 64)], 1, suites.Setting())
    seen = []
    run.model.backbone.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape[2:])))
    for _ in range(3):
        run.step()
    assert seen == [(64, 96), (96, 64), (64, 96)] and run.results['loss'] > 0


def test_peers_of_whole_steps_are_installed():
    """Configs of mmdet and mmseg, by the names that the suites give them."""
    for bar in (bar for bars in suites.SUITES.values() for bar in bars if '::' in str(bar.peer)):
        pytest.importorskip(bar.peer.split('::')[0])
        assert 'Swin' in runs.read_config(bar.peer, None, None).model.backbone.type
