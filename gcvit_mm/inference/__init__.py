"""Predicting from Python. Nothing of it is imported with the package."""

from .inputs import Inputs, find_inputs
from .maps import draw_attention, draw_features, draw_groups, find_attention
from .predictor import Predictor, dataset_meta, find_device, load, test_pipeline
from .results import Classification, CocoIds, Detections, Prediction, Predictions, Segmentation
from .videos import predict_video
from .writing import JsonFile, map_name
