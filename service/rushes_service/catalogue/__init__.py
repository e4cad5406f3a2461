"""Reads of the queue's records: runs, checkpoints, grids, pages of samples, lanes.

Imports the client package and media; API, sheets, CLI and demo import it.
"""

from rushes_service.catalogue.grid import Cell, Column, Grid, Row, arrange
from rushes_service.catalogue.reading import MAX_CELLS, grid_of, read_entries

__all__ = ["MAX_CELLS", "Cell", "Column", "Grid", "Row", "arrange", "grid_of", "read_entries"]
