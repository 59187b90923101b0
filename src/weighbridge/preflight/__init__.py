"""Before training: one forward and backward pass on a copy, and what its graph proves. See inspect.py."""
