import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)
