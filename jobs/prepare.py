"""Make a tile index, split and statistics of an archive."""

import sys

from satray.config.prepare import PrepareRecipe
from satray.data.prepare import plan, read, takes_ray, work
from satray.runs.job import Job, main

if __name__ == "__main__":
    sys.exit(main(Job("prepare", PrepareRecipe, read, plan, work, ray=takes_ray, workers=False)))
