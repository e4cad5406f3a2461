"""Exports of a run: a contact sheet, a film, a folder of pages.

Imports catalogue and media; CLI and demo import it.
"""
