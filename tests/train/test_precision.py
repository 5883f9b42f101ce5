"""Which precision a worker takes, and how it begins."""

import os
import random

import numpy as np
import pytest
import torch

from satray.train.state import begin, takes_bf16


@pytest.mark.parametrize(
    ("precision", "device", "able", "expected"),
    [
        ("auto", "cuda", True, True),
        ("auto", "cuda", False, False),
        ("auto", "cpu", {"avx512_bf16": True, "amx_bf16": False}, True),
        ("auto", "cpu", {"avx512_bf16": False, "amx_bf16": True}, True),
        ("auto", "cpu", {"avx512_f": True, "avx512_bf16": False}, False),
        ("auto", "cpu", {"architecture": "aarch64"}, False),
        ("bf16", "cpu", {}, True),
        ("fp32", "cuda", True, False),
    ],
)
def test_auto_is_bf16_where_the_device_computes_in_it(
    monkeypatch, precision, device, able, expected
):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: able or including_emulation,
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert takes_bf16(precision, torch.device(device)) is expected


def test_a_process_begins_with_all_generators_seeded(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    drawn = []
    for seed in (3, 3, 4):
        begin(seed)
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))
    begin(3, deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
