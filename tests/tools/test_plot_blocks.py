"""Tests of tools/plot_blocks.py."""

import csv
import json

import plot_blocks
import pytest
from PIL import Image

from gcvit_mm import UserError
from gcvit_mm.planning.blocks import BLOCKS, count_blocks

SMALL = ['--channels', '24', '48', '--sides', '64', '96']


def test_plot_and_table(tmp_path, capsys):
    """Four panels, and every count in the table, in both formats."""
    table = tmp_path / 'blocks.csv'
    plot_blocks.main([*SMALL, '--out', str(tmp_path / 'blocks.png'), '--table', str(table)])
    with Image.open(tmp_path / 'blocks.png') as image:
        assert min(image.size) > 400
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(BLOCKS) * (2 + 2 * 3)
    row = next(r for r in rows if r['block'] == 'attention' and r['height'] == '800')
    (cost,) = [c for c in count_blocks([24], [(800, 1280)]) if c.block == 'attention']
    assert row == {key: str(value) for key, value in cost._asdict().items()}
    assert f'{len(rows)} counts' in capsys.readouterr().out
    plot_blocks.write_table([cost], tmp_path / 'blocks.json')
    assert json.loads((tmp_path / 'blocks.json').read_text()) == [cost._asdict()]


def test_panels():
    """Against the side at 348 channels, against the channels at the three sizes."""
    costs = [*count_blocks([348], [(64, 64), (96, 96)]), *count_blocks([24], [(224, 224)])]
    costs += count_blocks([24], [(800, 1280), (512, 2048)])
    first, second, *_ = plot_blocks.draw(costs).axes
    assert [line.get_label() for line in first.lines] == list(BLOCKS)
    assert all(list(line.get_xdata()) == [64, 96] for line in first.lines)
    assert all(list(line.get_xdata()) == [24] for line in second.lines)
    drawn = {line.get_label(): line.get_ydata()[0] for line in second.lines}
    assert drawn == {c.block: c.gmacs for c in costs if c.height == 224}


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--channels', '100'], '--channels 100: give multiples of the 12 heads'),
        (['--channels', '0'], '--channels 0: give multiples'),
        (['--sides', '0'], '--sides 0: give sides of at least 1'),
        ([*SMALL, '--table', 'blocks.txt'], 'a name that ends in .csv or .json'),
    ],
)
def test_bad_arguments(argv, message, tmp_path, monkeypatch):
    """One line each, and no file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        plot_blocks.main(argv)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
