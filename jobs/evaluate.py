"""Predict a split of a tile index with a bundle and measure it."""

from satray.config.score import EvaluateRecipe
from satray.evaluate.job import large, plan, read, work
from satray.runs.job import Job, leave, main

if __name__ == "__main__":
    leave(main(Job("evaluate", EvaluateRecipe, read, plan, work, ray=large)))
