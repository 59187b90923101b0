"""The tuning part: what the authors of rules look at. README.md says how to add a program."""
