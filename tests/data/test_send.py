"""Tensors on their way to the device, as far as that can be seen without a GPU."""

from types import SimpleNamespace

import pytest
import torch

from satray.data.send import send


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.bool])
def test_on_the_cpu_the_tensor_is_passed_on(dtype):
    values = torch.zeros(3, dtype=dtype)
    assert send(values, torch.device("cpu")) is values


def test_a_gpu_is_sent_pinned_memory_and_not_waited_for():
    calls = []

    class Spy:
        device = SimpleNamespace(type="cpu")

        def pin_memory(self):
            calls.append("pinned")
            return self

        def to(self, device, **options):
            calls.append((device.type, options))
            return self

    send(Spy(), torch.device("cuda"))
    assert calls == ["pinned", ("cuda", {"non_blocking": True})]
    calls.clear()
    Spy.device = SimpleNamespace(type="cuda")
    send(Spy(), torch.device("cuda"))
    assert calls == [("cuda", {})]
