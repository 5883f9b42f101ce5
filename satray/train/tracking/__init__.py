"""What a training leaves to be read, on disk, in TensorBoard and in MLflow."""
