"""What an engine does to a sample, one stage after the other; memory that runs out is met in each, see `fallbacks`."""
