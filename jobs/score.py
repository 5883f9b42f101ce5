"""Score tiles or scenes with a bundle: predictions, class activation rasters, failures."""

from satray.config.score import ScoreRecipe
from satray.runs.job import Job, leave, main
from satray.score.job import early, large, plan, read, work

JOB = Job("score", ScoreRecipe, read, plan, work, ray=large, early=early)

if __name__ == "__main__":
    leave(main(JOB))
