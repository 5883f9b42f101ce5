"""Find the learning rate of a training stage by a range test."""

import sys

from satray.config.train import LandscapeRecipe
from satray.runs.job import Job, main
from satray.train.landscape.job import plan, read, work
from satray.train.plan.setup import early

if __name__ == "__main__":
    sys.exit(main(Job("landscape", LandscapeRecipe, read, plan, work, workers=False, early=early)))
