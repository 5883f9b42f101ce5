"""Score tiles with a bundle: predictions, class activation rasters, failures."""

import sys

from satray.config.score import ScoreRecipe
from satray.runs.frame import Job, main
from satray.scoring.score import inputs, plan, work

if __name__ == "__main__":
    sys.exit(main(Job("score", ScoreRecipe, inputs, plan, work)))
