"""Dataset descriptions and ready-made grids, as data files."""
