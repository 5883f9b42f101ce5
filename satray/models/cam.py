"""Class activation maps of networks with a linear head; no backward pass is needed.

Identities (exact, tested): for average pooling, mean(dense) + bias = logit; for maximum pooling,
sum(argmax) + bias = logit; for both, shares + bias = logit. Log-sum-exp pooling is no weighted sum
of cells that a map could show: its dense map is the same as average pooling's and shows where
evidence lies, but adds up to nothing; its shares are w . pooled, and with the bias they do add up
to the logit. Several towers: the identities hold summed over towers. All is computed in float32,
also under autocast.

Legend: B tiles, D feature channels, h w cells, K classes.
"""

import torch
from torch import Tensor

from satray.config.train import Pooling
from satray.models.network import pool


def dense_cam(f_BDhw: Tensor, w_KD: Tensor) -> Tensor:
    """M(x, y) = sum over channels of w f(x, y) (Zhou et al., CVPR 2016): M_BKhw, float32."""
    with torch.autocast(f_BDhw.device.type, enabled=False):
        return torch.einsum("bdhw,kd->bkhw", f_BDhw.float(), w_KD.float())


def argmax_cam(f_BDhw: Tensor, w_KD: Tensor) -> Tensor:
    """What maximum pooling really used: A(x, y) = sum of w f(x, y) 1[(x, y) = argmax f].

    Ties go to the first cell in row order. Returns A_BKhw, float32.
    """
    B, D, h, w = f_BDhw.shape
    f_BDn = f_BDhw.float().flatten(2)
    first_BD = (f_BDn == f_BDn.amax(2, keepdim=True)).int().argmax(2)
    peak_BD1 = f_BDn.gather(2, first_BD[..., None])
    kept_BDn = torch.zeros_like(f_BDn).scatter_(2, first_BD[..., None], peak_BD1)
    return dense_cam(kept_BDn.view(B, D, h, w), w_KD)


def shares(
    features: dict[str, Tensor], weights: dict[str, Tensor], pooling: Pooling
) -> dict[str, Tensor]:
    """Each tower's part of the logits, s_BK (float32, logit units); their sum + bias = logits.

    Args:
        features: f_BDhw by tower, as `Network` returns them.
        weights: w_KD by tower, of `Network.cam_weights`.
        pooling: the variant's.
    """
    parts: dict[str, Tensor] = {}
    for name, w_KD in weights.items():
        with torch.autocast(w_KD.device.type, enabled=False):
            parts[name] = pool(features[name], pooling) @ w_KD.float().T
    return parts
