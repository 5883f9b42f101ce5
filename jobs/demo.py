"""Generate a small archive and run the whole line on it."""

import sys

from satray.config.prepare import DemoRecipe
from satray.demo.line import plan, read, work
from satray.runs.job import Job, main

if __name__ == "__main__":
    sys.exit(main(Job("demo", DemoRecipe, read, plan, work)))
