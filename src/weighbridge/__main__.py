"""`python -m weighbridge` is the command `weighbridge`."""

from weighbridge.cli.main import run

if __name__ == "__main__":
    run()
