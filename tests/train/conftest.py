from collections.abc import Iterator

import pytest
import torch
from train.small_archive import generate


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks are faster on one thread, and the machine may be shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory):
    """An index of 32 tiles."""
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)
