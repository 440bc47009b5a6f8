"""Pages of runs, comparisons and data: each one self-contained file."""
