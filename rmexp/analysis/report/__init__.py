"""HTML pages and plots of runs, comparisons, data and plans.

Imports analysis.compare and packages down to tracking. Start with `run_page`.
"""
