"""Trains networks for the user: the lab and the demo. Imports torch."""
