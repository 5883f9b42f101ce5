"""Overfit one fixed batch, and say why where that fails."""

from satray.config.train import CheckRecipe
from satray.runs.job import Job, leave, main
from satray.train.check import plan, read, work
from satray.train.setup import early

if __name__ == "__main__":
    leave(main(Job("check", CheckRecipe, read, plan, work, workers=False, early=early)))
