"""Memory over a step, drawn."""

from matplotlib.figure import Figure

from .cards import GB
from .predict import Prediction


def draw(prediction: Prediction) -> Figure:
    """Draw memory over a step of training, stacked by part, with its peak.

    Args:
        prediction: With moments.
    """
    moments = prediction.moments
    parts = sorted({part for moment in moments for part, _ in moment.owners})
    bytes_of = [
        [sum(v for (p, _), v in m.owners.items() if p == part) / GB for m in moments]
        for part in parts
    ]
    figure = Figure((9, 5), dpi=120)
    axes = figure.subplots()
    axes.stackplot(range(len(moments)), bytes_of, labels=parts)
    highest = max(range(len(moments)), key=lambda i: moments[i].bytes)
    peak = prediction.train.bytes / GB
    axes.annotate(
        f'{peak:.2f} GB ({prediction.train.phase})',
        (highest, moments[highest].bytes / GB),
        xytext=(0, 12),
        textcoords='offset points',
        ha='center',
        arrowprops=dict(arrowstyle='->'),
    )
    axes.set(xlabel='moments of a step', ylabel='GB', ylim=(0, peak * 1.15))
    axes.legend(loc='upper left', fontsize='small')
    return figure
