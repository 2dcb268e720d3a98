"""The command line, ``billhook``: one module for each command's options, light to import.

What a command does, and what that needs, is imported when the command runs: from ``bodies`` where
it is more than a few lines.
"""
