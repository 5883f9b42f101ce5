"""Predict a split of a tile index with a bundle and measure it."""

import sys

from satray.config.evaluate import EvaluateRecipe
from satray.runs.frame import Job, main
from satray.scoring.evaluate import inputs, plan, work

if __name__ == "__main__":
    sys.exit(main(Job("evaluate", EvaluateRecipe, inputs, plan, work)))
