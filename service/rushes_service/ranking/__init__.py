"""Blind ranking: votes on pairs of samples, the Bradley-Terry estimate, and the choice of the next pair.

Imports catalogue and the client package, never numpy; API, sheets, CLI and demo import it.
"""
