"""The command `weighbridge`: its commands, and how it ends.

An error that is meant for a person (WeighbridgeError) is printed as one message on stderr and ends with exit code 2,
as a mistyped command line does. Anything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from weighbridge import __version__
from weighbridge.errors import WeighbridgeError
from weighbridge.format import visible

# In the order of the help. Each module has `register(app)` and imports its heavy parts inside the command.
COMMANDS: Final = (
    *("demo", "lab", "inspect", "bias", "ablate-bias"),
    *("ls", "label", "show", "top", "diagnose", "check", "rules", "explain", "ui", "report", "verify", "compact"),
)
EXIT_BAD_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130


class Commands(TyperGroup):
    """The group of all commands; turns errors into messages for whoever calls it, tests included."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)  # in the order of COMMANDS, not of the alphabet

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WeighbridgeError as error:
            _complain(str(error))
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.filename is None:
                raise
            _complain(f"{error.filename}: {error.strerror}. Nothing was changed; check the path and your rights to it.")
            raise typer.Exit(EXIT_BAD_INPUT) from None


def _complain(message: str) -> None:
    print("\n".join(visible(line) for line in message.splitlines()), file=sys.stderr)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"weighbridge {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The Typer application with every command."""
    app = typer.Typer(
        name="weighbridge",
        cls=Commands,
        add_completion=False,
        rich_markup_mode=None,  # plain help: the same in every terminal, in a pipe and in docs/cli.md
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def weighbridge(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and end.", callback=_say_version, is_eager=True)
        ] = False,
    ) -> None:
        """Weigh a neural network while it trains: every weight, bias, gradient and update, at every step.

        Record a training with weighbridge.watch(model) in Python, then look at it with these commands.
        """

    for name in COMMANDS:
        importlib.import_module(f"weighbridge.cli.{name.replace('-', '_')}").register(app)
    return app


app = build_app()


def run() -> None:
    """Entry point of the command line."""
    try:
        app(prog_name="weighbridge")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        _end_quietly()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            _end_quietly()
        raise


def _end_quietly() -> None:
    # Python flushes stdout once more at exit; into the void it cannot fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)
