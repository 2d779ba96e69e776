"""Predicting from Python. Nothing of it is imported with the package."""

from .predictor import Predictor, dataset_meta, load, test_pipeline
from .results import Classification, Detections, Prediction, Predictions, Segmentation
