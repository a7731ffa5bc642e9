"""The benchmarks behind `iroot bench`: the maintained matrix of cases, arms beside one another, samples, reports.

A run is a folder with a manifest and raw samples (one line for each timed call); report, summary and plots are made
from these two alone. Times and true errors stand side by side, and arms take turns in random order in one process.
"""
