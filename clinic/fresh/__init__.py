"""The fresh part: held out once more, written without having read a rule. Not to be opened or run while a rule is written."""
