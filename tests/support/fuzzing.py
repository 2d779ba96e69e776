"""How hypothesis draws bad input."""

from hypothesis import HealthCheck, settings


def fuzz(examples):
    """Settings: the same cases every time, no limit of time, a folder shared by all cases."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
