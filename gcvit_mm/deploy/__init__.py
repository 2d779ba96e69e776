"""Models that leave torch. What stands here needs no torch; :mod:`gcvit_mm.deploy.onnx` does."""

from .predictor import Prediction, Predictor
