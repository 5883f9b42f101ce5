"""What a training run is about, in words: index, variant, values. No torch."""

from satray.train.plan.setup import Setup


def about(setup: Setup) -> list[str]:
    """Index and variant, in a few lines."""
    meta = setup.index.meta
    towers = "; ".join(
        f"{tower.name}: {tower.backbone} on {', '.join(tower.bands)}"
        for tower in setup.variant.towers
    )
    height, width = meta.tile_shape
    stored = sum(setup.index.table.column("bytes").to_pylist())
    return [
        f"index: {setup.train_tiles:,} train and {setup.val_tiles:,} validation tiles, "
        f"{height} x {width} px, {len(meta.bands)} bands {meta.dtype}, {meta.task}, "
        f"{len(meta.classes)} classes, {stored / 1e6:,.0f} MB stored",
        f"variant: {towers}; pooling {setup.variant.pooling}",
        *_values(setup),
    ]


def _values(setup: Setup) -> list[str]:
    """What pixels become, where they do not just stay what they are."""
    if setup.radiometry.name == "stored":
        return []
    source = "as the recipe says" if setup.mean else "to be measured on a sample of train tiles"
    return [f"values: {setup.radiometry.name}; mean and deviation {source}"]


def counted(number: int, noun: str) -> str:
    """A number of things: `1 worker`, `2,000 workers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def variant_name(setup: Setup) -> str:
    """The variant in a word or two."""
    variant = setup.recipe.variant
    return variant if isinstance(variant, str) else " + ".join(t.name for t in variant.towers)
