"""How fast a model runs, in every form, beside other runtimes."""
