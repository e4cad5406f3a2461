"""What there is to look at: runs, their checkpoints and prompts, and the grid they make."""

from rushes_service.catalogue.grid import Cell, Column, Grid, Row, arrange
from rushes_service.catalogue.reading import MAX_CELLS, grid_of, read_entries

__all__ = ["MAX_CELLS", "Cell", "Column", "Grid", "Row", "arrange", "grid_of", "read_entries"]
