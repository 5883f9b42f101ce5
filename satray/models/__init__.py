"""Variants, backbones, weights, bundles, class activation maps and where a cell lies."""
