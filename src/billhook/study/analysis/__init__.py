"""What the results of a study say: statistics, comparisons, verdicts."""
