"""Prediction of whole volumes, and the Dice score that selects a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from cgs.data.store import Case, resize_nearest
from cgs.engine.method import Method

BATCH = 48
"""Slices predicted at once."""


@contextmanager
def evaluating(method: Method) -> Iterator[None]:
    """Put the networks of `method` in eval mode, without gradients; restore their modes after."""
    modes = {name: net.training for name, net in method.nets.items()}
    for net in method.nets.values():
        net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for name, net in method.nets.items():
            net.train(modes[name])


def working_slices(image: np.ndarray, size: int, device: torch.device) -> Tensor:
    """(D, 1, size, size) float32 slices of a volume (D, H, W), resized by nearest neighbour."""
    resized = np.ascontiguousarray(resize_nearest(image, (size, size)), dtype=np.float32)
    return torch.from_numpy(resized).unsqueeze(1).to(device)


def predict_slices(method: Method, slices: Tensor) -> np.ndarray:
    """Label maps (D, S, S) uint8 of slices (D, 1, S, S); call inside `evaluating`."""
    parts = [method.predict(part).max(1).indices.to(torch.uint8) for part in slices.split(BATCH)]
    return torch.cat(parts).cpu().numpy()


def predict_volume(method: Method, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Label volume (D, H, W) uint8 at the native size of `image`."""
    with evaluating(method):
        labels = predict_slices(method, working_slices(image, method.task.size, device))
    return resize_nearest(labels, (image.shape[1], image.shape[2]))


def dice_per_target(prediction: np.ndarray, reference: np.ndarray, classes: int) -> np.ndarray:
    """3D Dice of targets 1..K of two label volumes; 0 where the prediction or the reference is empty."""
    table = np.bincount(
        reference.ravel().astype(np.int64) * classes + prediction.ravel(), minlength=classes * classes
    ).reshape(classes, classes)
    sizes = table.sum(0) + table.sum(1)
    return (2.0 * np.diag(table) / np.maximum(sizes, 1))[1:]


class Validation:
    """Mean 3D Dice on the validation cases, whose slices stay on the device."""

    def __init__(self, cases: list[Case], task_size: int, classes: int, device: torch.device) -> None:
        self.classes = classes
        self.references = [case.label for case in cases]
        parts = [working_slices(case.image, task_size, device) for case in cases]
        self.counts = [len(part) for part in parts]
        self.slices = torch.cat(parts)

    def __call__(self, method: Method) -> np.ndarray:
        """Dice per target (K,), averaged over cases."""
        with evaluating(method):
            labels = predict_slices(method, self.slices)
        scores = []
        for part, reference in zip(
            np.split(labels, np.cumsum(self.counts)[:-1]), self.references, strict=True
        ):
            native = resize_nearest(part, (reference.shape[1], reference.shape[2]))
            scores.append(dice_per_target(native, reference, self.classes))
        return np.mean(scores, axis=0)
