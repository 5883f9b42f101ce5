"""Score tiles or scenes with a bundle: predictions, class activation rasters, failures."""

import sys

from satray.config.score import ScoreRecipe
from satray.runs.job import Job, main
from satray.scoring.score import early, plan, read, work

JOB = Job("score", ScoreRecipe, read, plan, work, early=early)

if __name__ == "__main__":
    sys.exit(main(JOB))
