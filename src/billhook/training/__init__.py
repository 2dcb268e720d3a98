"""The training loop that all tasks share, its log and its precision."""
