"""Pooling over many footprints is pooling over each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satray.models.network import pool
from satray.score.window_forward import pool_footprints


@given(st.data(), st.sampled_from(["avg", "max", "lse"]))
def test_each_footprint_is_pooled_as_the_network_pools(data, pooling):
    h, w = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    height, width = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    tops = data.draw(st.lists(st.integers(0, h - height), min_size=1, max_size=5))
    lefts = data.draw(st.lists(st.integers(0, w - width), min_size=1, max_size=5))
    f_Dhw = 10 * torch.randn(3, h, w, generator=torch.Generator().manual_seed(h * w))
    p_DTU = pool_footprints(f_Dhw, torch.tensor(tops), torch.tensor(lefts), height, width, pooling)
    assert p_DTU.shape == (3, len(tops), len(lefts))
    for t, top in enumerate(tops):
        for u, left in enumerate(lefts):
            part = f_Dhw[None, :, top : top + height, left : left + width]
            torch.testing.assert_close(p_DTU[:, t, u], pool(part, pooling)[0], rtol=1e-5, atol=1e-5)


def test_far_apart_values_do_not_underflow():
    f_Dhw = torch.tensor([[[-1000.0, 0.0], [1000.0, 1000.0]]])
    one = torch.tensor([0])
    assert pool_footprints(f_Dhw, one, one, 1, 1, "lse").item() == pytest.approx(-1000)
    assert pool_footprints(f_Dhw, one, one, 2, 2, "lse").item() == pytest.approx(1000, abs=1)
