"""The checks of `rushes doctor`; each yields findings with advice.

Imports processes, storage and model file headers, never torch; only the CLI imports it.
"""
