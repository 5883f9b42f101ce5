import pytest
import torch


@pytest.fixture(autouse=True)
def _calm():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained():
    """Backbones with batch statistics as after training, each made once: name -> Backbone."""
    from satray.models.backbones import build

    made = {}

    def make(name, bands=3):
        if (name, bands) not in made:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                made[name, bands] = settle(build(name, bands), bands)
        return made[name, bands]

    return make


def settle(backbone, bands):
    """Let batch norms measure, then move their scales and shifts away from one and zero."""
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # plain means over all that is seen
    with torch.no_grad():
        for _ in range(2):
            backbone.train()(torch.randn(2, bands, 96, 96))
        for norm in norms:
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.normal_(0, 0.2)
    return backbone.eval().requires_grad_(False)
