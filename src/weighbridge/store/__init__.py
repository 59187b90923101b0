"""The files of a run: written by one process, read by any other."""
