"""Our small network: five convolutions with group normalisation, total stride 8.

Group normalisation has no running state and does not look across the batch, so N workers train
as one does (tested), and small batches work. Pools of 2 without padding keep the cells centred:
cell i looks at 4 + 8 i px.
"""

from torch import Tensor, nn

CHANNELS = (24, 48, 96, 128, 128)
GROUPS = 8


def _block(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.ReLU(inplace=True),
    ]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class SimpleCNN(nn.Module):
    """x_BCHW -> f_BDhw with D = 128, h = H // 8, w = W // 8; 310 thousand parameters."""

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        before = in_chans
        for number, channels in enumerate(CHANNELS, start=1):
            self.add_module(f"block{number}", _block(before, channels, pool=number <= 3))
            before = channels
        self.num_features = before

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The features of a batch, f_BDhw."""
        for block in self.children():
            x_BCHW = block(x_BCHW)
        return x_BCHW
