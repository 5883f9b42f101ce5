"""Score tiles or scenes with a bundle: predictions, class activation rasters, failures."""

from satray.runs.job import Job, keep_memory, leave, main

keep_memory()  # before what is imported now starts threads

from satray.config.score import ScoreRecipe
from satray.score.job import early, large, plan, read, work

JOB = Job("score", ScoreRecipe, read, plan, work, ray=large, early=early)

if __name__ == "__main__":
    leave(main(JOB))
