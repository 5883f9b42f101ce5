import os
from collections.abc import Iterator

import pytest
import torch
from train.small_archive import generate


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks are faster on one thread, and the machine may be shared: jobs see one core."""
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {sorted(cores)[os.getpid() % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory):
    """An index of 32 tiles."""
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)
