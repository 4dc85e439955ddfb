"""A short, repeatable run of fuzz_models.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

sys.path.append(str(Path(__file__).parent))
from fuzz_models import TARGETS
from fuzzing import Files, feed


@pytest.mark.parametrize("name", TARGETS)
def test_random_model_files_meet_our_own_errors_alone(name, tmp_path):
    target = TARGETS[name]
    target.prepare(tmp_path)

    @settings(
        max_examples=150,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.files)
    def once(files: Files) -> None:
        feed(target, tmp_path, files)

    once()
