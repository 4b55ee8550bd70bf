"""Networks as layer tables."""

from yoloflow.models.inference import Prediction, predict, predict_images, prepare_for_inference
from yoloflow.models.network import Network, create_model
from yoloflow.models.pretrain import LoadReport, freeze_layers, load_pretrain

__all__ = [
    "LoadReport",
    "Network",
    "Prediction",
    "create_model",
    "freeze_layers",
    "load_pretrain",
    "predict",
    "predict_images",
    "prepare_for_inference",
]
