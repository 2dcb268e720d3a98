"""The charts of a study's page, one kind per module."""
