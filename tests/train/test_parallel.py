"""Two processes (gloo) against one, at the same global batch."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from train.tiny_training import (
    ROWS,
    equal,
    kept,
    mean_of,
    recipe,
    run,
    stage,
    timeless,
    tiny_net,
    weights,
)

# In the first pseudo-epoch: rank 1's first batch, and the whole second global batch.
UNREADABLE = tuple(np.random.default_rng(0).permutation(ROWS)[4:16].tolist())
STAGES = (stage(1, 0.05, "constant", trainable="head"), stage(2, 0.05))


def trained(rank, workers):
    """Rows and weights; and over batch norms the moving average after each pseudo-epoch, the mean
    of two moments and its evaluation."""
    given = recipe(*STAGES, optimizer="sgd", error_budget=0.5)
    done = run(given, tiny_net(), rank=rank, workers=workers, unreadable=UNREADABLE)
    assert all((seen is None) == (rank > 0) for seen in done.seen)  # rank 0 measures
    stages = stage(1, 0.05, "constant"), stage(1.5, 0.05, "constant", trainable="head")
    given = recipe(*stages, ema=0.9, average={"swa": True})
    again = run(given, tiny_net(norm="batch"), rank=rank, workers=workers)
    *states, last = again.states
    averages = [*map(kept, states), mean_of(last)]
    return list(done.rows), weights(done.net), averages, list(again.rows)


def worker(rank, workers, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    store = dist.FileStore(f"{folder}/store", workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    torch.save(trained(rank, workers), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_equal_one_and_each_other(tmp_path):
    mp.spawn(worker, (2, str(tmp_path)), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone, net, _, _ = trained(0, 1)
    for rows, found, *_ in both:
        for name in ("train_loss", "val_loss"):
            assert [r[name] for r in rows] == pytest.approx([r[name] for r in alone], abs=1e-4)
        assert [r["unreadable"] for r in rows] == [r["unreadable"] for r in alone] == [12, 12, 12]
        torch.testing.assert_close(found, net, rtol=1e-4, atol=1e-5)
    (first, mine, ours, averaged), (second, other, theirs, averaged_too) = both
    assert timeless([*first, *averaged]) == timeless([*second, *averaged_too])
    equal(mine, other)
    for one, two in zip(ours, theirs, strict=True):
        equal(one, two)
        assert one["norm.running_mean"].abs().max() > 0
    assert not torch.equal(ours[-1]["head.weight"], ours[-2]["head.weight"])
