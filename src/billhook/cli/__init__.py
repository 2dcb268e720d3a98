"""The command line, ``billhook``: one module per command."""
