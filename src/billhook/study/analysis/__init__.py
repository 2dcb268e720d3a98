"""The analysis of a study's results: statistics, comparisons, verdicts."""
