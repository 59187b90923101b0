"""`weighbridge ui`: the page, served on this machine only."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weighbridge.errors import BadInput, NotARun

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

FIRST_PORT = 8765
PORTS_TRIED = 20
READ_ONLY = "This page was started with --read-only: nothing can be changed here."
OUTSIDE = (
    "This page is open to other machines (--host {host}): nothing can be changed here. For that, start one without --host."
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The questions of the page and the compactor share one interpreter, and a question takes it some fifty times. With Python's own
# 5 ms between switches every click waits a quarter of a second longer while a segment is compacted.
SWITCH_SECONDS = 0.0002


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ui")(ui)


def ui(
    place: Annotated[
        Path, typer.Argument(metavar="[RUN_OR_FOLDER]", help="A run, or a folder of runs.", show_default=True)
    ] = Path("weighbridge-runs"),
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one. Default: 8765, or the next free one.")] = -1,
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback lets others read.")] = "127.0.0.1",
    read_only: Annotated[bool, typer.Option("--read-only", help="Change nothing in the folder, and let nobody else.")] = False,
    open_page: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open a browser. Default: where there is a display.")
    ] = None,
) -> None:
    """Show runs in a browser, growing while they train. Ends with Ctrl-C."""
    from weighbridge.server.page import check_built

    check_built()
    root = _existing(place)
    listener = _listen(host, port)
    bound = int(listener.getsockname()[1])
    for line in announcement(root, host, bound, os.environ):
        print(line, flush=True)
    if open_page if open_page is not None else has_display(os.environ):
        webbrowser.open(address(host, bound))
    _serve(root, host, listener, read_only)


def address(host: str, port: int) -> str:
    """What people type into the browser.

    >>> address("127.0.0.1", 8765)
    'http://localhost:8765/'
    """
    name = "localhost" if host in ("127.0.0.1", "localhost", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"


def announcement(root: Path, host: str, port: int, environment: os._Environ[str] | dict[str, str]) -> list[str]:
    """What is printed before serving: address, the tunnel where we are at the far end of ssh, how to end."""
    lines = [f"weighbridge shows {root} at {address(host, port)}"]
    if host not in LOOPBACK:
        lines.append(f"Anyone who reaches {host}:{port} can read these runs and train in the Lab; nothing asks for a password.")
    elif "SSH_CONNECTION" in environment:
        lines.append(f"You are here through ssh. On your own machine run:  {tunnel(port, environment)}")
        lines.append(f"and open {address(host, port)} there.")
    return [*lines, "Ctrl-C ends it."]


def tunnel(port: int, environment: os._Environ[str] | dict[str, str]) -> str:
    """The line that brings the port to the reader's machine: the same port on both sides, which the server checks."""
    user = environment.get("USER") or environment.get("LOGNAME") or "you"
    there = environment.get("SSH_CONNECTION", "").split()  # client address, client port, server address, server port
    far = there[2] if len(there) == 4 else socket.gethostname()
    other = f" -p {there[3]}" if len(there) == 4 and there[3] != "22" else ""
    return f"ssh -N -L {port}:localhost:{port}{other} {user}@{far}"


def has_display(environment: os._Environ[str] | dict[str, str]) -> bool:
    """Is there a screen on which a browser can open, and a person before it?"""
    if "SSH_CONNECTION" in environment or not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or "DISPLAY" in environment or "WAYLAND_DISPLAY" in environment


def _existing(place: Path) -> Path:
    if place.is_dir():
        if not os.access(place, os.R_OK | os.X_OK):
            raise NotARun(f"{place} may not be read by this user. Ask its owner, or give another folder.")
        return place
    if place.exists():
        raise NotARun(f"{place} is a file. Give the folder of a run, or a folder that holds runs.")
    if place == Path("weighbridge-runs"):
        return place  # no run yet: the page says how to record a first one, and has the Lab
    raise NotARun(f"There is no folder {place}. Runs lie in ./weighbridge-runs unless the training said otherwise.")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: of the port asked for, or of the first free one from the usual one on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wanted = [port] if port >= 0 else list(range(FIRST_PORT, FIRST_PORT + PORTS_TRIED))
    problem: OSError | None = None
    for candidate in wanted:
        listener = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
        except (OSError, OverflowError) as error:
            listener.close()
            problem = error if isinstance(error, OSError) else OSError(str(error))
            continue
        listener.listen(128)  # from now on a browser waits instead of being refused
        return listener
    if len(wanted) == 1:
        raise BadInput(f"Port {port} of {host} cannot be used ({problem}). Leave --port out, or take another: --port 0")
    raise BadInput(f"No port from {wanted[0]} to {wanted[-1]} of {host} can be used ({problem}). Any free one: --port 0")


def _whole(root: Path, read_only: bool, **options: Any) -> Starlette:
    """All that answers, with the compactor beside it. Its imports take a third of a second."""
    from weighbridge.server.app import create_app
    from weighbridge.server.compactor import Compactor, elsewhere
    from weighbridge.server.runs import Runs
    from weighbridge.store.trash import sweep

    runs = Runs(root, keeps=not read_only)
    if not read_only:
        sweep(root)  # what an earlier one had no time to remove
        Compactor(runs, elsewhere).start()
    return create_app(runs, **options)


def _serve(root: Path, host: str, listener: socket.socket, read_only: bool) -> None:
    import uvicorn

    from weighbridge.server.early import Early
    from weighbridge.server.gate import LOOPBACK_NAMES
    from weighbridge.server.memory import share_arenas

    outside = host not in LOOPBACK
    names = LOOPBACK_NAMES | ({host.lower(), socket.gethostname().lower()} if outside else frozenset())
    sys.setswitchinterval(SWITCH_SECONDS)
    share_arenas()
    locked = READ_ONLY if read_only else OUTSIDE.format(host=host) if outside else ""
    make = partial(_whole, root, read_only, names=frozenset(names), any_address=outside, asks_ahead=True, locked=locked)
    app = Early(make, names=frozenset(names), any_address=outside)
    # Streams of events never end by themselves: a second is enough for all else to be sent.
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, timeout_graceful_shutdown=1, server_header=False, lifespan="off"
    )
    server: uvicorn.Server = uvicorn.Server(config)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # Ctrl-C is how this command ends
    finally:
        listener.close()
