"""Search configurations of `train`: variants, learning rates, schedules."""

from satray.config.tune import TuneRecipe
from satray.runs.job import Job, leave, main
from satray.tune.job import early, plan, read, wants_dashboard, work

if __name__ == "__main__":
    leave(main(Job("tune", TuneRecipe, read, plan, work, early=early, dashboard=wants_dashboard)))
