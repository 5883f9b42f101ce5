"""Predict a split of a tile index with a bundle and measure it."""

from satray.config.score import EvaluateRecipe
from satray.runs.job import Job, leave, main
from satray.scoring.evaluate import plan, read, work

if __name__ == "__main__":
    leave(main(Job("evaluate", EvaluateRecipe, read, plan, work)))
