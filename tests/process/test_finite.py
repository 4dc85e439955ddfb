from __future__ import annotations

import pytest
import torch
from torch import nn

from infifusion.errors import CheckpointError
from infifusion.process.finite import first_not_finite, is_finite, require_finite_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_value_among_many_is_found(dtype: torch.dtype, bad: float) -> None:
    values = torch.ones(1000, 33, dtype=dtype)
    assert is_finite(values)
    values[700, 5] = bad
    assert not is_finite(values) and not is_finite(values.T)


def test_infinities_that_cancel_and_sums_that_overflow_are_told_apart() -> None:
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))
    assert is_finite(torch.full((100,), 65504.0, dtype=torch.float16))
    assert is_finite(torch.full((4,), 3e38))


def test_what_holds_no_floats_is_finite() -> None:
    for tensor in (torch.ones(3, dtype=torch.uint8), torch.ones(0), torch.ones(3, device="meta")):
        assert is_finite(tensor)
    small = torch.ones(3).to(torch.float8_e4m3fn)
    assert is_finite(small)
    assert not is_finite(torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn))


def test_the_first_bad_one_is_named() -> None:
    bad = torch.tensor([torch.nan])
    assert first_not_finite([("a", None), ("b", torch.ones(2)), ("c", bad), ("d", bad)]) == "c"
    model = nn.Linear(2, 2)
    require_finite_weights(model, "place")
    nn.init.constant_(model.bias, torch.nan)
    with pytest.raises(CheckpointError, match="place: the tensor bias holds NaN or Inf"):
        require_finite_weights(model, "place")
