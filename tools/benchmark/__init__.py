"""Time and memory of models, side by side."""
