"""Numbers of a scored set: metrics, calibration, bias probes, statistics and benchmarks.

Imports packages down to models. Start with `metrics`.
"""
