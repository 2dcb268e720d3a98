"""What the larger commands do; their options are in the module of the same name one level up."""
