"""Tests of tools/plot_zoo.py."""

import plot_zoo
import pytest
from model_zoo import DOCUMENT, read_entries
from PIL import Image

from gcvit_mm import UserError

ENTRIES = read_entries()
TASKS = plot_zoo.read_tasks(ENTRIES)


def points(axes):
    """What a panel shows: (x, y) by family."""
    return {
        line.get_label(): [tuple(xy) for xy in line.get_xydata().tolist()] for line in axes.lines
    }


def test_counts_are_those_of_the_page():
    """Ours, not the papers', with the products of attention."""
    row = next(line for line in DOCUMENT.read_text().splitlines() if '`cls_gcvit_t2_300e`' in line)
    cells = [cell.strip(' *') for cell in row.split('|')]
    (model,) = (m for m in TASKS['cls_300e'] if (m.family, m.size) == ('gcvit', 'T2'))
    assert model.counts['parameters'] == pytest.approx(float(cells[3]), abs=0.006)
    assert model.counts['flops'] == pytest.approx(float(cells[6]), abs=0.006)
    assert model.counts['flops'] > model.published['FLOPs (G)']


def test_every_model_has_a_family_and_a_task():
    """None is left out silently."""
    models = [model for task in TASKS.values() for model in task]
    assert len(models) == len(ENTRIES)
    assert {model.family for model in models} == set(plot_zoo.FAMILIES)
    assert {'cls_300e', 'cls_384', 'mask_1x', 'mask_3x', 'segformer_160k'} <= set(TASKS)


def test_points_are_published_figures():
    """Accuracy as the metafiles have it, against both counts, in the order of the line."""
    found = plot_zoo.panels(TASKS, ['cls_300e'], None)
    flops, parameters = plot_zoo.draw(found, ['flops', 'parameters']).axes
    for axes, key, unit in ((flops, 'FLOPs', 1e9), (parameters, 'Parameters', 1e6)):
        for family, (title, _) in plot_zoo.FAMILIES.items():
            expected = sorted(
                (entry['Metadata'][key] / unit, entry['Published']['top-1'])
                for name, entry in ENTRIES.items()
                if name.startswith(f'cls_{family}_') and name.endswith('_300e')
            )
            assert expected and points(axes)[title] == expected
    assert 'at 224x224' in flops.get_xlabel()
    assert [text.get_text() for text in flops.texts].count('L4') == 1


def test_figures_of_the_authors_are_called_so():
    """Nobody takes them for ours."""
    figure = plot_zoo.draw(plot_zoo.panels(TASKS, ['mask_1x'], ['box AP']), ['flops'])
    assert "the authors' figures, none of them measured here" in figure.get_suptitle()


def test_labels_hide_nothing():
    """Sixteen models close together: no label on another or on a marker."""
    figure = plot_zoo.draw(plot_zoo.panels(TASKS, ['cls_300e'], None), ['flops'])
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(TASKS['cls_300e'])
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    dots = [axes.transData.transform(line.get_xydata()) for line in axes.lines]
    assert not any(box.count_contains(xy) for box in boxes for xy in dots)


def test_panels_of_several_tasks():
    """One for every task and metric that has results; image sizes that differ stand at the axis."""
    found = plot_zoo.panels(TASKS, ['mask_1x', 'upernet_160k'], None)
    assert [panel[:2] for panel in found] == [
        ('mask_1x', 'box AP'),
        ('mask_1x', 'mask AP'),
        ('upernet_160k', 'mIoU'),
        ('upernet_160k', 'mIoU (multi-scale)'),
    ]
    assert all(metric in m.published for _, metric, models in found for m in models)
    (axes,) = plot_zoo.draw(found[3:], ['flops']).axes
    assert 'at 512x2048, 1024x1024' in axes.get_xlabel()


def test_image_is_written(tmp_path, capsys):
    """A row a panel, into a folder that is made, and how many results it shows."""
    out = tmp_path / 'new' / 'zoo.png'
    plot_zoo.main(['--task', 'mask_1x', '--x', 'flops', '--out', str(out)])
    with Image.open(out) as image:
        assert image.size[1] > 1.2 * image.size[0]
    results = sum('box AP' in m.published for m in TASKS['mask_1x'])
    assert f'{2 * results} results' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--task', 'mask'], "there is no 'mask': give some of mask_1x"),
        (['--metric', 'AP'], 'no AP is published for cls_300e: metrics are box AP'),
        (['--task', 'dino_1x'], 'no result is published for dino_1x'),
    ],
)
def test_bad_arguments(argv, message, tmp_path, monkeypatch):
    """One line each, and no file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        plot_zoo.main(argv)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
