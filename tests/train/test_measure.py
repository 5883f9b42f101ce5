"""Mean and deviation measured on a sample of real files, once a run."""

import numpy as np
import pytest
import torch
from train.small_archive import SIDE, generate, make_recipe, make_run

from satray.data.augment import Augment
from satray.data.decode import read_pixels
from satray.errors import InputError
from satray.models.preprocess import to_values
from satray.storage import Storage
from satray.train import measure
from satray.train.setup import set_up
from satray.train.step import train_input

PAPER = {
    "towers": [{"name": "rgb", "backbone": "simple_cnn", "bands": ["blue", "green", "red"]}],
}
INPUT = {"size": SIDE, "radiometry": "pil_compat"}


@pytest.fixture
def archive(tmp_path):
    return generate(tmp_path / "archive", tiles=24, spoil=(5,))


def the_setup(archive, folder, **changes):
    wanted = {"variant": PAPER, "input": INPUT, "cache": {"enabled": False}, **changes}
    return set_up(make_recipe(archive, folder, **wanted), Storage())


def test_it_is_that_of_the_split_and_measured_once_a_run(archive, tmp_path):
    setup = the_setup(archive, tmp_path)
    assert (setup.bands, setup.mean) == (("blue", "green", "red", "nir"), ())
    run, said = make_run(tmp_path / "out")
    found = measure.complete(setup, run)
    files = map(Storage().read, setup.index.part("train").table.column("uri").to_pylist())
    tiles = [read_pixels(f, (0, 1, 2, 3), SIDE, SIDE, "uint16") for f in files if len(f) > 99]
    pixels = torch.from_numpy(np.stack(tiles))
    values = to_values(pixels, setup.radiometry, setup.bands).numpy()
    np.testing.assert_allclose(found.mean, values.mean(axis=(0, 2, 3), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(found.std, values.std(axis=(0, 2, 3), dtype=float), rtol=1e-5)
    assert "over 17 train tiles: blue" in said[0]  # of 18, one is no image
    for tile in archive.folder.glob("*.tif"):
        tile.unlink()
    again = measure.complete(setup, run)
    assert (again.mean, again.std) == (found.mean, found.std)
    elsewhere, _ = make_run(tmp_path / "other")
    with pytest.raises(InputError, match="none of 18 train tiles could be read") as caught:
        measure.complete(setup, elsewhere)
    assert "\n" not in str(caught.value)


def test_what_is_known_is_not_measured(archive, tmp_path):
    run, said = make_run(tmp_path / "out")
    given = {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.1, 0.1]}
    for wanted in ({"size": SIDE}, {**INPUT, "normalize": given}):
        setup = the_setup(archive, tmp_path, input=wanted)
        assert measure.complete(setup, run) is setup
    assert not said


@pytest.mark.parametrize("size", [SIDE, 16])
def test_training_sees_what_scoring_will(archive, tmp_path, size):
    """Whatever is resized on the way: 16 px of tiles of 24 px."""
    run, _ = make_run(tmp_path / "out")
    setup = measure.complete(the_setup(archive, tmp_path, input={**INPUT, "size": size}), run)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(3_000, 9_000, (4, 4, SIDE, SIDE)).astype(np.uint16))
    still = Augment(size, "none", "centre")
    trained = train_input(pixels, np.arange(4), 0, setup.preprocess(), still)
    assert torch.equal(trained, setup.preprocess()(pixels))
