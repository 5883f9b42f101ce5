"""Take a bundle out of satray: encoders, ONNX, torch.export."""

import sys

from satray.config.score import ExportRecipe
from satray.runs.job import Job, main
from satray.scoring.export import plan, read, work

if __name__ == "__main__":
    sys.exit(main(Job("export", ExportRecipe, read, plan, work, ray=False, workers=False)))
