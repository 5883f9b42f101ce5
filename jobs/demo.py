"""Generate a small archive and run the whole line on it."""

from satray.config.prepare import DemoRecipe
from satray.demo.line import plan, read, work
from satray.runs.job import Job, leave, main

if __name__ == "__main__":
    leave(main(Job("demo", DemoRecipe, read, plan, work)))
