"""The extractor on a device that is too small."""

import numpy as np
import pytest
import torch
from train.small_archive import generate
from tune.feature_material import in_memory, prepare, stored

from satray.data.read import to_torch
from satray.tune import forward
from satray.tune.forward import Extractor


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=24)


@pytest.mark.parametrize("fits", [5, 0])
def test_out_of_memory_takes_fewer_tiles_a_forward(archive, tmp_path, monkeypatch, fits):
    made = prepare(archive, tmp_path, pooling="max")
    whole = in_memory(made)[0].parts[0]
    sizes = []
    real = forward.pooled

    def pooled(network, x_BCHW, poolings):
        sizes.append(len(x_BCHW))
        if len(x_BCHW) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, x_BCHW, poolings)

    monkeypatch.setattr(forward, "pooled", pooled)
    extractor = Extractor(made.setup, made.run.storage, made.weights, made.spec, False)
    table, source = stored(made, "train")
    batch = to_torch(table, source.shape, source.dtype)
    tiles = batch["pixels"], batch["row"].numpy()
    if not fits:
        with pytest.raises(torch.OutOfMemoryError):
            extractor.features("train", *tiles)
        assert sizes[-1] == 1
        return
    found = extractor.features("train", *tiles)
    tower = made.setup.variant.towers[0].name
    np.testing.assert_allclose(found[f"{tower}_max"], whole, atol=1e-5)
    assert sizes[0] > fits
    assert max(sizes[4:]) <= fits
