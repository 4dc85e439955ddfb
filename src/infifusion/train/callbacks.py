"""The user's own callbacks of a training run, and the loggers of `report_to`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from infifusion.errors import RecipeError
from infifusion.registry import nearest

TENSORBOARD_DIR = "TENSORBOARD_LOGGING_DIR"  # where transformers' callback writes
CallbackMaker = tuple[str, Callable[[], Any]]
"""What the recipe calls a callback, and the class or function that it stands for."""
PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "kubeflow": "kubeflow-trainer"}
"""Packages that are not called as transformers calls the logger."""


def make_callbacks(makers: Sequence[CallbackMaker]) -> list[TrainerCallback]:
    """One new callback of each; RecipeError where one cannot be made."""
    made = []
    for name, make in makers:
        try:
            callback = make()
        except TypeError as error:
            raise RecipeError(
                f"callbacks: {name} cannot be called without arguments: {error}. Give a function "
                "that returns the callback."
            ) from error
        if not isinstance(callback, TrainerCallback):
            raise RecipeError(
                f"callbacks: {name} returned a {type(callback).__name__}; expected a "
                "transformers.TrainerCallback."
            )
        made.append(callback)
    return made


def loggers_of(report_to: object) -> list[str]:
    """The loggers that `report_to` asks for: none, all, one or a list."""
    if report_to in (None, "none", [], ["none"]):
        return []
    if report_to in ("all", ["all"]):
        return get_available_reporting_integrations()
    return [str(name) for name in report_to] if isinstance(report_to, list) else [str(report_to)]


def check_loggers(report_to: object, *, where: str) -> None:
    """RecipeError for a logger that transformers does not know, or that is not installed."""
    available = get_available_reporting_integrations()
    for name in loggers_of(report_to):
        if name not in INTEGRATION_TO_CALLBACK:
            raise RecipeError(
                f"{where}.report_to: there is no logger '{name}'."
                f"{nearest(name, INTEGRATION_TO_CALLBACK)} Known: "
                f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}; none; all."
            )
        if name not in available:
            raise RecipeError(
                f"{where}.report_to: '{name}' is not installed. Run `pip install "
                f"{PACKAGES.get(name, name)}`, or write report_to: none."
            )


@contextmanager
def logging_to(folder: Path, loggers: Sequence[str]) -> Iterator[None]:
    """TensorBoard's files go to `folder`, where the user has not said another place; a W&B run ends
    with the training run, so that the next one of this process is one of its own."""
    ours = "tensorboard" in loggers and TENSORBOARD_DIR not in os.environ
    if ours:
        os.environ[TENSORBOARD_DIR] = str(folder)
    try:
        yield
    finally:
        if ours:
            del os.environ[TENSORBOARD_DIR]
        if "wandb" in loggers and "wandb" in sys.modules:
            sys.modules["wandb"].finish()
