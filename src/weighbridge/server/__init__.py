"""The web server of `weighbridge ui`. Imports the web framework; nobody else does."""
