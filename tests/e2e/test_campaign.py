"""The campaign of kills and spoilt checkpoints, in small; its figures are in docs/robustness.md."""

import json

import campaign


def test_in_small(tmp_path):
    """A kill, a few damaged and forged files: nothing is lost, and all are counted."""
    out = tmp_path / 'campaign.json'
    words = ['--kills', '1', '--damaged', '5', '--forged', '10', '--seed', '1', '--out', str(out)]
    assert campaign.main(words) == 0
    report = json.loads(out.read_text())
    assert sum(report['killed']['kills'].values()) == 1
    for kind, count in dict(damaged=5, forged=10).items():
        outcomes = ('refused', 'harmless', 'passed_over', 'warned')
        assert sum(report[kind][key] for key in outcomes) == count


def test_what_is_silently_wrong_is_seen(monkeypatch, capsys):
    """A forged weight that could be true: nothing can tell, and the campaign says so."""

    def other_weights(content, chance, trap):
        content['state_dict']['layers.0.weight'].add_(0.1)
        return 'other weights'

    monkeypatch.setattr(campaign, 'forge', other_weights)
    assert campaign.main(['--kills', '0', '--damaged', '0', '--forged', '1']) == 1
    assert 'forged, wrong: 0: other weights' in capsys.readouterr().out


def test_lost_steps_are_seen(tmp_path):
    """A training that goes on before its checkpoint, with other losses, or has saved nothing."""
    training = campaign.Training(tmp_path / 'life', 1)
    training.work_dir.mkdir()
    (training.work_dir / 'losses.txt').write_text('1 0.5\n2 0.25\n9 0.125\n10 0.1')
    whole = type('Whole', (), dict(curve={1: 0.5, 2: 0.25, 9: 0.1}))
    found = dict(lost=[], wrong=[], resumed=0)
    campaign.judge(training, whole, 'it', 4, 1, found)
    assert found['lost'] == ['it: went on at 2 after iter_4', 'it: step 9, but iter_0']
    assert found['wrong'] == ['it: other losses'] and found['resumed'] == 1
