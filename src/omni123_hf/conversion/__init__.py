"""Checkpoints of other projects in this one's classes, and the proof that they compute the same."""
