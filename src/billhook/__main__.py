"""``python -m billhook``: the command line, also for ``accelerate launch -m billhook``."""

import os
import sys

# Python puts the folder where the command runs first on the path: nothing that lies there may take
# the place of an installed module. Commands that are given module:function look there last.
if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
    del sys.path[0]

from billhook.cli.app import main

if __name__ == "__main__":
    main()
