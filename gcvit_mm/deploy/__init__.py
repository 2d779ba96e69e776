"""Models that leave torch."""
