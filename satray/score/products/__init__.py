"""What scoring a whole scene makes: maps, tables, detections, catalogue entries and pictures."""
