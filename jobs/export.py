"""Take a bundle out of satray: encoders, ONNX, torch.export."""

from satray.config.score import ExportRecipe
from satray.runs.job import Job, leave, main
from satray.score.export import plan, read, work

if __name__ == "__main__":
    leave(main(Job("export", ExportRecipe, read, plan, work, ray=False, workers=False)))
