"""Pages about runs, grids, predictions and data sets: records, written as HTML and more."""
