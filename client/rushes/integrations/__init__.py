"""Trainers that people already run, sampled by Rushes. One module each; none is imported before it is asked for."""
