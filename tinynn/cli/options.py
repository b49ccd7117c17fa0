"""Options that several commands share, the model in a file, and files that may be written."""

import os
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import click

import backends
import tinynn
from tinynn.cli.parts import MEMORY
from tinynn.data import host
from tinynn.tabular import fit_table

DEFAULTS: dict[str, Any] = {
    name: each.default for name, each in signature(fit_table).parameters.items()
}


def widths(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Widths of layers as integers, from "64,32" or "none"."""
    parts = [] if value.strip().lower() == "none" else value.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"expected widths such as 64,32 or none, got {value!r}.")
    return tuple(map(int, parts))


def widths_or_none(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """The same, None for an option that was not given."""
    return None if value is None else widths(ctx, param, value)


def orders(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Columns of dates and their orders, from "COLUMN=dmy"."""
    found = {}
    for given in value:
        name, equals, order = given.rpartition("=")
        if not equals or order not in ("ymd", "dmy", "mdy"):
            raise click.BadParameter(f"expected COLUMN=ymd, =dmy or =mdy, got {given!r}.")
        found[name] = order
    return found


def usable(ctx: click.Context, param: click.Parameter, value: Any) -> backends.Backend:
    """The backend of a name; one that cannot be used is a wrong argument."""
    try:
        return backends.get(value)
    except backends.BackendUnavailable as error:
        raise click.BadParameter(str(error)) from error


def libraries(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names of libraries that complete what was typed so far."""
    return [name for name in backends.names() if name.startswith(incomplete)]


backend_option = click.option(
    "--backend",
    metavar="NAME",
    default=host,
    callback=usable,
    shell_complete=libraries,
    show_default="the host's own library",
    help=f"Where to work: {', '.join(backends.names())}; or with a device, library:device.",
)
memory_option = click.option(
    "--memory",
    type=click.IntRange(0),
    default=MEMORY,
    show_default=True,
    metavar="MB",
    help="What a table may take, about: a file of more than a quarter of it is read in parts.",
)
force_option = click.option("--force", is_flag=True, help="Replace any file that is there.")


def opened(file: str, backend: backends.Backend) -> tinynn.Model:
    """The model in a file, which has to be one of tables."""
    try:
        model = tinynn.load(file, backend)
    except TypeError as error:  # of a dtype that the device lacks
        raise click.ClickException(str(error)) from error
    if model.preparation is None:
        raise click.ClickException(
            f"{file}: expected a model of tables, as `tinynn train` writes it, got one that knows "
            "no columns. To fix it: read it in Python, with tinynn.load(path).predict(X)."
        )
    return model


def check_out(
    out: str | None,
    source: str,
    force: bool,
    may_replace: Callable[[Path], bool],
    hint: str = "'--out'",
) -> None:
    """Refuse, before any work, an --out that would cost a good file or cannot be written."""
    if out is None:
        return
    path = Path(out)
    problem = ""
    if not path.parent.is_dir():
        problem = f"the folder {path.parent} does not exist. Make it first"
    elif not os.access(path.parent, os.W_OK):
        problem = f"the folder {path.parent} may not be written. Give another"
    elif path.exists():
        if os.path.exists(source) and os.path.samefile(out, source):
            problem = "it is what is to be read. Give another name"
        elif not force and not may_replace(path):
            problem = "there is a file of another kind. Give another name, or say --force"
    if problem:
        raise click.BadParameter(f"{out}: {problem}.", param_hint=hint)
