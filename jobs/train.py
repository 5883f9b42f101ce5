"""Train a variant on a tile index and write a bundle."""

from satray.config.train import TrainRecipe
from satray.runs.job import Job, leave, main
from satray.train.job import plan, read, work
from satray.train.setup import early
from satray.train.worker import wants_ray

if __name__ == "__main__":
    leave(main(Job("train", TrainRecipe, read, plan, work, ray=wants_ray, early=early)))
