"""Overfit one fixed batch, and say why where that fails."""

from satray.config.train import CheckRecipe
from satray.runs.job import Job, leave, main
from satray.train.check import plan, read, work
from satray.train.setup import early
from satray.train.worker import may_use_gpu

if __name__ == "__main__":
    leave(
        main(
            Job("check", CheckRecipe, read, plan, work, ray=may_use_gpu, workers=False, early=early)
        )
    )
