"""Inside the training process: hooks, kernel, recorder. Imports torch; imported by nobody but the public API."""
