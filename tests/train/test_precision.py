"""Which precision a worker takes, and how it begins."""

import os
import random

import numpy as np
import pytest
import torch

from satray.train import state
from satray.train.state import takes_bf16


@pytest.mark.parametrize("computes", [True, False])
def test_auto_is_bf16_where_the_gpu_computes_in_it(monkeypatch, computes):
    def supported(including_emulation=True):
        return computes or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert takes_bf16("auto", torch.device("cuda")) is computes


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_auto_is_bf16_where_the_processor_computes_in_it(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert takes_bf16("auto", torch.device("cpu")) is expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_the_recipe_names_is_taken(device):
    assert takes_bf16("bf16", torch.device(device)) is True
    assert takes_bf16("fp32", torch.device(device)) is False


def test_a_process_begins_with_all_generators_seeded(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    drawn = []
    for seed in (3, 3, 4):
        state.begin(seed, deterministic=False)
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    state.begin(3, deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
