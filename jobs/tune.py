"""Search configurations of `train`: variants, learning rates, schedules."""

import sys

from satray.config.tune import TuneRecipe
from satray.runs.job import Job, main
from satray.tune.job import early, plan, read, work

if __name__ == "__main__":
    sys.exit(main(Job("tune", TuneRecipe, read, plan, work, early=early, dashboard=True)))
