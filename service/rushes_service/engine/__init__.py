"""Samples in the memory there is: where a model's parts lie, what is tried when memory runs out, who may go first."""
