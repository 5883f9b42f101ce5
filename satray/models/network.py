"""A variant as one module: towers, pooling, head; and the class activation maps of linear heads.

Maps need no backward pass. Identities (exact, tested): for average pooling, mean(dense) + bias =
logit; for maximum pooling, sum(argmax) + bias = logit; for both, shares + bias = logit. Log-sum-exp
pooling is no weighted sum of cells that a map could show: its dense map is the same as average
pooling's and shows where evidence lies, but adds up to nothing; its shares are w . pooled, and with
the bias they do add up to the logit. Several towers: the identities hold summed over towers. All is
computed in float32, also under autocast.

Legend: B tiles, C input bands, H W pixels, D feature channels, h w feature cells, K classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from satray.config.train import Pooling, VariantOptions
from satray.errors import InputError
from satray.models.backbones import Backbone, build
from satray.models.variant import check_bands, input_bands

# Sharpness r of log-sum-exp pooling, log(mean(exp(r f))) / r (Pinheiro and Collobert, CVPR 2015):
# r -> 0 is the mean, r -> infinity the maximum.
LSE_SHARPNESS = 5.0
DENSE_UNITS = 64


def pool(f_BDhw: Tensor, pooling: Pooling) -> Tensor:
    """Global pooling of features in float32: p_BD.

    Args:
        f_BDhw: features of any float dtype.
        pooling: `avg`, `max` or `lse`.
    """
    f_BDn = f_BDhw.float().flatten(2)
    if pooling == "avg":
        return f_BDn.mean(2)
    if pooling == "max":
        return f_BDn.amax(2)
    cells = f_BDn.new_tensor(f_BDn.shape[2]).log()
    return (torch.logsumexp(LSE_SHARPNESS * f_BDn, 2) - cells) / LSE_SHARPNESS


class Network(nn.Module):
    """x_BCHW -> logits_BK (float32, raw).

    Untrained networks in eval mode make denormal numbers, which are slow on CPUs: callers that
    time or test such networks set `torch.set_flush_denormal(True)`.
    """

    def __init__(
        self,
        variant: VariantOptions,
        classes: int,
        *,
        bands: tuple[str, ...] | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        size: int | None = None,
    ) -> None:
        """Build with fresh random weights (torch's global generator).

        Args:
            variant: towers, pooling and head.
            classes: K; 1 for a binary task.
            bands: names of the input channels in order; default `input_bands(variant)`.
            dropout: on the pooled features (for a dense head, before its last layer).
            drop_path: of every tower's residual branches (`satray.models.backbones.build`).
            size: side of the input in px; a dense head needs it, and then takes no other.

        Raises:
            InputError: an unknown backbone, an absent band, a dense head without `size`, or
                `drop_path` for a backbone that has none.
        """
        super().__init__()
        self.variant = variant
        self.classes = classes
        self.bands = input_bands(variant) if bands is None else bands
        self.size = size
        check_bands(variant, self.bands)
        for tower in variant.towers:
            if hasattr(nn.ModuleDict(), tower.name):  # torch keeps its own methods' names
                raise InputError(f"variant: a tower cannot be called {tower.name}; rename it")
        self.towers = nn.ModuleDict(
            {t.name: build(t.backbone, len(t.bands), drop_path) for t in variant.towers}
        )
        self._looks = {tower.name: tower.bands for tower in variant.towers}
        for tower in variant.towers:
            take = torch.tensor([self.bands.index(band) for band in tower.bands])
            self.register_buffer(f"take_{tower.name}", take, persistent=False)
        self.dropout = nn.Dropout(dropout)
        width = self._width()
        self.head: nn.Module = nn.Linear(width, classes)
        if variant.head == "dense":
            hidden = nn.Linear(width, DENSE_UNITS), nn.ReLU(inplace=True), nn.Dropout(dropout)
            self.head = nn.Sequential(*hidden, nn.Linear(DENSE_UNITS, classes))
        self._first: dict[str, int | None] = dict.fromkeys(self.towers, 0)

    def backbones(self) -> dict[str, Backbone]:
        """The towers by name, in order."""
        return {name: tower for name, tower in self.towers.items() if isinstance(tower, Backbone)}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of normalised tiles."""
        return self.classify(self.features(x_BCHW))

    def features(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Each tower's features f_BDhw of normalised tiles, by name.

        Raises:
            InputError: a dense head's network is given another size than its own.
        """
        if self.size is not None and x_BCHW.shape[2:] != (self.size, self.size):
            raise InputError(
                f"a dense head takes {self.size} x {self.size} px only, "
                f"found {x_BCHW.shape[2]} x {x_BCHW.shape[3]}"
            )
        return {name: tower(self._look(x_BCHW, name)) for name, tower in self.towers.items()}

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        """Pooling and head: logits_BK (float32, raw) of whole tiles' features f_BDhw by tower."""
        maps = list(features.values())
        logits_BK: Tensor
        # In float32 whatever the autocast, so that maps sum to logits.
        with torch.autocast(maps[0].device.type, enabled=False):
            if self.variant.head == "linear":
                p_BD = torch.cat([pool(f, self.variant.pooling) for f in maps], 1)
                logits_BK = self.head(self.dropout(p_BD))
            else:
                logits_BK = self.head(torch.cat([f.float().flatten(1) for f in maps], 1))
        return logits_BK

    def cam_weights(self) -> dict[str, Tensor]:
        """The head's weights w_KD for each tower.

        Raises:
            InputError: the head is dense, so that no class activation map exists.
        """
        if not isinstance(self.head, nn.Linear):
            raise InputError(
                "cam: a dense head mixes all cells before it decides, so no map of cells adds up "
                "to its logits; use a variant with head=linear (simple_cnn instead of "
                "simple_cnn_dense)"
            )
        backbones = self.backbones()
        parts = torch.split(self.head.weight, [b.dim for b in backbones.values()], dim=1)
        return dict(zip(backbones, parts, strict=True))

    def set_trainable(self, spec: str) -> None:
        """Choose what trains from now on.

        Frozen parts get no gradients, and stay in eval mode under `train()`, so that their batch
        statistics and buffers do not move either.

        Args:
            spec: `head`; `all`; a block (that block and all after it, in every tower); or
                `TOWER.block` (the other towers stay frozen).

        Raises:
            InputError: no such block; the message lists the names.
        """
        self._first = self._first_blocks(spec)
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        for name in self.towers:
            for part in self._active(name):
                part.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":
        """Like torch's, but frozen parts stay in eval mode."""
        super().train(mode)
        for name, backbone in self.towers.items():
            backbone.eval()
            for part in self._active(name):
                part.train(mode)
        return self

    def _active(self, tower: str) -> list[nn.Module]:
        """What trains of a tower: all of it (with tokens and scales outside blocks), or blocks."""
        backbone, first = self.backbones()[tower], self._first[tower]
        if first == 0:
            return [backbone]
        return [] if first is None else [backbone.block(b) for b in backbone.blocks[first:]]

    def _first_blocks(self, spec: str) -> dict[str, int | None]:
        """For each tower, the number of its first trainable block; None if it is frozen."""
        backbones = self.backbones()
        if spec in ("head", "all"):
            return dict.fromkeys(backbones, 0 if spec == "all" else None)
        tower, _, block = spec.partition(".")
        if tower in backbones and block in backbones[tower].blocks:
            frozen: dict[str, int | None] = dict.fromkeys(backbones)
            return frozen | {tower: backbones[tower].blocks.index(block)}
        for name, backbone in backbones.items():
            if spec not in backbone.blocks:
                raise InputError(
                    f"trainable={spec!r} is no block of tower {name} ({backbone.name}); accepted: "
                    f"head, all, {', '.join(backbone.blocks)}"
                )
        return {name: backbone.blocks.index(spec) for name, backbone in backbones.items()}

    def _look(self, x_BCHW: Tensor, tower: str) -> Tensor:
        """The channels that a tower looks at, in its order; the batch itself where it has those."""
        if self._looks[tower] == self.bands:
            return x_BCHW
        return x_BCHW.index_select(1, self.get_buffer(f"take_{tower}"))

    def _width(self) -> int:
        """Numbers that the head takes in."""
        if self.variant.head == "linear":
            return sum(backbone.dim for backbone in self.backbones().values())
        if self.size is None:
            raise InputError("head=dense needs a fixed input size; give input.size")
        side = torch.zeros(1, len(self.bands), self.size, self.size)
        with torch.no_grad():
            cells: int = sum(b.eval()(self._look(side, n)).numel() for n, b in self.towers.items())
        for backbone in self.backbones().values():
            backbone.train()
        return cells


# Class activation maps


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
