"""A whole network as one program: placed in memory, lowered to steps, raced, run."""
