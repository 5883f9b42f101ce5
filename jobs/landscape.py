"""Find the learning rate of a training stage by a range test."""

from satray.config.train import LandscapeRecipe
from satray.runs.job import Job, leave, main
from satray.train.range_test import plan, read, work
from satray.train.setup import early
from satray.train.worker import may_use_gpu

if __name__ == "__main__":
    leave(
        main(
            Job(
                "landscape",
                LandscapeRecipe,
                read,
                plan,
                work,
                ray=may_use_gpu,
                workers=False,
                early=early,
            )
        )
    )
