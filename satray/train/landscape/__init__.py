"""The learning-rate range test, from one sweep to the job."""
