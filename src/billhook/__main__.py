"""``python -m billhook``: the command line, also for ``accelerate launch -m billhook``."""

from billhook.cli.app import main

main()
