"""The measured part, held out: not to be opened or run while a rule is written or tuned."""
