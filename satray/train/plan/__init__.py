"""The plan of a training, before anything runs: stages, schedules, labels. No Ray, no torch."""
