"""From an archive of tiles and labels to an index, and from an index to batches."""
