"""Two processes (gloo) against one, at the same global batch."""

import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from train.tiny_training import ROWS, equal, kept, recipe, run, stage, tiny_net

from satray.config.train import TowerOptions, VariantOptions
from satray.models.network import Network
from satray.train.parallel import synchronised

# In the first pseudo-epoch: rank 1's first batch, and the whole second global batch.
UNREADABLE = tuple(np.random.default_rng(0).permutation(ROWS)[4:16].tolist())
STAGES = (stage(1, 0.05, "constant", trainable="head"), stage(2, 0.05))


def test_synchronised_norms_keep_their_activations():
    torch.manual_seed(0)
    tower = TowerOptions(name="rgb", backbone="mobilenetv2_100", bands=("a", "b", "c"))
    net = Network(VariantOptions(towers=(tower,)), 2).eval()
    x_BCHW = torch.randn(2, 3, 32, 32)
    names, expected = list(net.state_dict()), net(x_BCHW)
    converted = synchronised(net)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in converted.modules())
    assert list(converted.state_dict()) == names
    assert torch.equal(converted(x_BCHW), expected)


def losses(rank, workers, state=None):
    given = recipe(*STAGES, optimizer="sgd", batch=8, error_budget=0.5)
    done = run(given, tiny_net(), rank=rank, workers=workers, unreadable=UNREADABLE, state=state)
    reports, states, net = done
    assert all((seen is None) == (rank > 0) for seen in done.seen)  # rank 0 measures
    return list(reports), states, {name: value.tolist() for name, value in net.state_dict().items()}


def worker(rank, workers, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    store = dist.FileStore(f"{folder}/store", workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    rows, _, net = losses(rank, workers)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump([rows, net], file)
    torch.save(averages(rank, workers), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def averages(rank, workers):
    """The moving average after each pseudo-epoch, and the mean of two moments."""
    stages = stage(1, 0.05, "constant"), stage(1.5, 0.05, "constant", trainable="head")
    given = recipe(*stages, average={"ema": 0.9, "swa": True, "start": 0.5, "most": 9})
    done = run(given, tiny_net(norm="batch"), rank=rank, workers=workers)
    mean, _ = done.loop.average(*done.feed)
    return [kept(state) for state in done.states], mean


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes wrote, which are slow to start."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (2, str(folder)), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def together(ranks):
    return [json.loads((ranks / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_workers_equal_one(together):
    alone, _, net = losses(0, 1)
    for rows, weights in together:
        for name in ("train_loss", "val_loss"):
            assert [r[name] for r in rows] == pytest.approx([r[name] for r in alone], abs=1e-4)
        assert [r["unreadable"] for r in rows] == [r["unreadable"] for r in alone] == [12] * 3
        for name, value in net.items():
            torch.testing.assert_close(
                torch.tensor(weights[name]), torch.tensor(value), rtol=1e-4, atol=1e-5
            )


def test_all_ranks_report_the_same(together):
    (first, net), (second, other) = together
    seconds = {"seconds_data", "seconds_compute", "seconds_evaluate", "images_per_second"}
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k not in seconds} == {
            k: v for k, v in b.items() if k not in seconds
        }
    assert net == other


def test_all_ranks_have_the_same_averages(ranks):
    (first, mean), (second, other) = (
        torch.load(ranks / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    for one, two in zip(first, second, strict=True):
        equal(one, two)
        assert one["norm.running_mean"].abs().max() > 0
    equal(mean, other)
    assert not torch.equal(mean["head.weight"], first[-1]["head.weight"])
