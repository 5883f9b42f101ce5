"""The ONNX Runtime engine: the same features for any size, from a graph that is exported once."""

import pytest
import torch

from satray.models.backbones import Backbone
from satray.scoring.engine import onnx_trunk
from satray.scoring.engine.exported import ExportCache
from satray.scoring.engine.onnx_trunk import OnnxTrunk
from satray.scoring.engine.trial import TOLERANCE, difference
from satray.scoring.engine.trunk import UnfitError

# An export takes seconds: `bench/engine.py` does it for each built-in backbone, and `pick` compares
# before it takes one.
EXPORTED = ("simple_cnn", "resnet18")


@pytest.fixture(scope="module")
def graph(trained):
    """Gives the exported graph of a backbone, each made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = onnx_trunk.exported(trained(name), 3)
        return made[name]

    return get


@pytest.mark.parametrize("name", EXPORTED)
def test_equals_eager(name, trained, graph, tmp_path, monkeypatch):
    backbone, data = trained(name), graph(name)
    monkeypatch.setattr(onnx_trunk, "exported", lambda *a: data)
    trunk = OnnxTrunk(backbone, 3, 1, ExportCache(tmp_path), (name,))
    with torch.inference_mode():
        for shape in ((1, 3, 96, 160), (2, 3, 128, 96), (3, 3, 101, 133)):
            x = torch.randn(shape)
            wanted = backbone(x)
            assert difference(trunk(x), wanted) <= TOLERANCE
            assert difference(trunk(x.to(memory_format=torch.channels_last)), wanted) <= TOLERANCE


def test_exported_once(trained, graph, tmp_path, monkeypatch):
    backbone, calls, data = trained("simple_cnn"), [], graph("simple_cnn")
    monkeypatch.setattr(onnx_trunk, "exported", lambda *a: calls.append(a) or data)
    x = torch.randn(1, 3, 64, 64)
    makes = [OnnxTrunk(backbone, 3, 1, ExportCache(tmp_path), ("m", "rgb")) for _ in range(2)]
    assert len(calls) == 1
    assert torch.equal(makes[0](x), makes[1](x))
    (file,) = tmp_path.glob("*.onnx")
    file.write_bytes(file.read_bytes()[:1000])  # cut short: out this time, anew the next
    with pytest.raises(UnfitError, match="ONNX Runtime does not take it"):
        OnnxTrunk(backbone, 3, 1, ExportCache(tmp_path), ("m", "rgb"))
    OnnxTrunk(backbone, 3, 1, ExportCache(tmp_path), ("m", "rgb"))
    assert len(calls) == 2


def test_what_it_cannot_do(tmp_path):
    class Body(torch.nn.Module):
        def forward_features(self, x):
            return x * (1 if x.sum().item() > 0 else 2)

    with pytest.raises(UnfitError, match="torch cannot export made"):
        OnnxTrunk(Backbone("made", Body(), 3, None), 3, 1, ExportCache(tmp_path), ("m",))
    assert not list(tmp_path.iterdir())
