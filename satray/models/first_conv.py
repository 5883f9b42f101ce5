"""How a first convolution that was trained on red, green, blue meets other bands.

A tower of exactly three bands that are not all of red, green and blue (`nir, nir, nir`) takes the
weights as they are, in their places. Otherwise each of red, green and blue takes its own weights
by name, whatever the order, and the other bands are filled:

- `kaiming`: drawn anew by `kaiming_normal_` on a (O, 1, k, k) part each (the Planet report);
- `zero`: zeros, so that the outputs are those of the RGB network;
- `mean`: the mean over red, green and blue;
- `copy`: red, green, blue in turn, by the channel's place.

`in_place` knows no names: the first three bands take the weights of red, green and blue whatever
they are, the others are drawn as with `kaiming`. So the Planet report's code does, whose files are
blue, green, red, near-infrared: its blue meets the filters of red.

With `kaiming` and `zero` the RGB weights are kept bit for bit. With `mean` and `copy` all weights
of n > 1 bands, the RGB ones too, are multiplied by 3 / n, so that the sum over channels stays what
it was; one band takes the sum over red, green and blue. `copy` is then timm's `adapt_input_conv`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from satray.config.train import FirstConv
from satray.errors import InputError
from satray.models.variant import RGB


def adapt_first_conv(stored_OIkk: Tensor, bands: Sequence[str], how: FirstConv) -> Tensor:
    """Weights of a first convolution for a tower's bands: w_OCkk, C = len(bands).

    Args:
        stored_OIkk: the stored weights; I is 3, or C already.
        bands: the tower's bands, in input order.
        how: `kaiming` and `in_place` (both draw from torch's global generator), `zero`, `mean` or
            `copy`.

    Raises:
        InputError: stored weights for another number of bands, or `zero` without any RGB band.
    """
    stored, wanted = stored_OIkk.shape[1], len(bands)
    if stored == wanted and (stored != 3 or set(bands) != set(RGB)):
        return stored_OIkk
    if stored != 3:
        towers = f"the tower's {wanted} ({', '.join(bands)})"
        raise InputError(
            f"weights: the first convolution takes {stored} bands; accepted: "
            + (towers if wanted == 3 else f"3 (red, green, blue), or {towers}")
        )
    if how in ("mean", "copy") and wanted == 1:
        return stored_OIkk.sum(1, keepdim=True)
    if how == "in_place":
        drawn = [_fill(stored_OIkk, place, "kaiming") for place in range(3, wanted)]
        return torch.cat([stored_OIkk[:, :wanted], *drawn], 1)
    own = {band: RGB.index(band) for band in RGB if band in bands}
    if how == "zero" and not own:
        raise InputError(
            f"first_conv=zero would blind a tower of {', '.join(bands)}, none of them red, green "
            "or blue; accepted: kaiming, mean, copy"
        )
    parts: list[Tensor] = []
    for place, band in enumerate(bands):
        if band in own:
            channel = own.pop(band)  # a repeated name is filled like another band
            parts.append(stored_OIkk[:, channel : channel + 1])
        else:
            parts.append(_fill(stored_OIkk, place, how))
    w_OCkk = torch.cat(parts, 1)
    return w_OCkk * (3 / wanted) if how in ("mean", "copy") else w_OCkk


def _fill(stored_O3kk: Tensor, place: int, how: FirstConv) -> Tensor:
    if how == "kaiming":
        return nn.init.kaiming_normal_(torch.empty_like(stored_O3kk[:, :1]))
    if how == "zero":
        return torch.zeros_like(stored_O3kk[:, :1])
    if how == "mean":
        return stored_O3kk.mean(1, keepdim=True)
    return stored_O3kk[:, place % 3 : place % 3 + 1]
