"""What the engine does for samples whose turn has not come, beside the one that it makes."""
