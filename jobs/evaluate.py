"""Predict a split of a tile index with a bundle and measure it."""

from satray.runs.job import Job, keep_memory, leave, main

keep_memory()  # before what is imported now starts threads

from satray.config.score import EvaluateRecipe
from satray.evaluate.job import large, plan, read, work

if __name__ == "__main__":
    leave(main(Job("evaluate", EvaluateRecipe, read, plan, work, ray=large)))
