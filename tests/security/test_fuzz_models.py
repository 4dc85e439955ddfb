"""A short, repeatable run of fuzz_models.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

sys.path.append(str(Path(__file__).parent))
from fuzz_models import TARGETS, feed, whole_model


@pytest.mark.parametrize("name", TARGETS)
def test_random_model_files_meet_our_own_errors_alone(name, tmp_path):
    whole_model(tmp_path)
    target = TARGETS[name]

    @settings(
        max_examples=150,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.content)
    def once(content: bytes) -> None:
        feed(target, tmp_path, content)

    once()
