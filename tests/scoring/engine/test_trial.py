"""What is made of a trial."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satray.scoring.engine.trial import (
    MARGIN,
    TRIED_PX,
    Choice,
    Trial,
    difference,
    fastest,
    tried_shape,
)
from satray.scoring.engine.trunk import NAMES

trials = st.lists(
    st.builds(
        Trial,
        st.sampled_from(NAMES),
        st.none() | st.floats(1e-3, 10),
        refused=st.none() | st.just("no"),
    ),
    unique_by=lambda trial: trial.engine,
)


@given(trials)
def test_fastest(found):
    best = fastest(tuple(found))
    good = {t.engine: t.seconds for t in found if t.refused is None and t.seconds is not None}
    if not good:
        assert best == "eager"
        return
    assert good[best] * MARGIN**2 <= min(good.values())
    assert all(good[best] < good[name] for name in NAMES[: NAMES.index(best)] if name in good)


def test_a_plainer_one_that_is_nearly_as_fast():
    assert fastest((Trial("eager", 1.0), Trial("fused", 0.98))) == "eager"
    assert fastest((Trial("fused", 0.5), Trial("eager", 1.0), Trial("onnx", 0.4))) == "onnx"


def test_difference():
    f = torch.tensor([[[[1.0, -4.0]]]])
    assert difference(f, f) == 0
    assert difference(f + torch.tensor([0.0, 0.004]), f) == pytest.approx(1e-3, rel=1e-3)
    assert difference(f[..., :1], f) == math.inf
    assert difference(f * math.nan, f) == math.inf
    assert difference(f, f * math.nan) != difference(f, f)
    assert difference(f, 0 * f) == math.inf
    assert difference(0 * f, 0 * f) == 0
    assert difference(f, f * math.inf) == math.inf


@given(
    st.tuples(st.integers(1, 64), st.integers(1, 5000), st.integers(1, 5000)),
    st.sampled_from([8, 16, 32, 640]),
)
def test_tried_shape(shape, step):
    found = tried_shape(shape, step)
    assert all(1 <= side <= max(given, step) for side, given in zip(found, shape, strict=True))
    assert math.prod(found) <= max(TRIED_PX, step * step)
    for side, given_side in zip(found[1:], shape[1:], strict=True):
        assert side == given_side or side % step == 0


def test_no_shape():
    with pytest.raises(ValueError, match="three positive numbers"):
        tried_shape((1, 0, 32), 32)


def test_lines():
    found = (Trial("eager", 0.25, 0.0), Trial("fused", 0.1, 1e-7), Trial("onnx", refused="why"))
    choice = Choice({"rgb": "fused"}, {"rgb": found}, (1, 512, 512), 2)
    assert choice.lines() == ["rgb: fused (eager 250 ms; fused 100 ms; onnx: why)"]
    assert pickle.loads(pickle.dumps(choice)) == choice
