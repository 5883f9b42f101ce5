"""Whole scenes: one forward over large windows, or tile by tile, and all that follows from it."""
