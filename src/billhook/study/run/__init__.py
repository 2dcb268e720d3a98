"""Trials trained: one of them, many at once, what is chosen, what is timed."""
