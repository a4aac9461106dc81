"""Importing: public checkpoints become runs."""
