"""The command `tinynn explain`."""

import os
from pathlib import Path
from typing import Any

import click

import backends
import tinynn
from tinynn.cli import reading
from tinynn.cli.options import (
    DEFAULTS,
    backend_option,
    check_out,
    force_option,
    opened,
    widths_or_none,
)
from tinynn.optim import Adam
from tinynn.tabular import fit_table


@click.command(
    "explain",
    epilog=f"The truth tables: {', '.join(reading.TRUTH_TABLES)}.",
)
@click.argument("source")
@click.argument("data", required=False)
@backend_option
@click.option("--rows", type=click.IntRange(1), default=4, show_default=True, help="Of DATA.")
@click.option("--values", is_flag=True, help="Carry the step out, and show what each line gives.")
@click.option(
    "--detail",
    type=click.Choice(["lines", "all", "calls", "program"]),
    default="lines",
    show_default=True,
    help="Lines that are folded; views and set-up as well; every call; or the emitted program.",
)
@click.option("--hidden", metavar="WIDTHS", callback=widths_or_none, help="Of a truth table's net.")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="The same.")
@click.option("--picture", type=click.Path(dir_okay=False), help="Draw it: .svg, .png, .pdf.")
@click.option("--page", type=click.Path(dir_okay=False), help="Write a page to play with, .html.")
@force_option
def show_step(
    source: str,
    data: str | None,
    backend: backends.Backend,
    rows: int,
    values: bool,
    detail: str,
    hidden: tuple[int, ...] | None,
    dropout: float | None,
    picture: str | None,
    page: str | None,
    force: bool,
) -> None:
    """Explain a training step, line by line.

    SOURCE is a model's file, whose next step on the first rows of DATA is shown, or the name of a
    truth table: then it is the first step of `tinynn train` with it. The forward pass, the backward
    pass and Adam's update, each line with its shape, its formula and the layer that it comes from.
    """
    wanted = [
        (picture, (".svg", ".png", ".pdf"), "'--picture'"),
        (page, (".html",), "'--page'"),
    ]
    for path, endings, option in wanted:
        check_ending(path, endings, option)
        for other in filter(None, (source, data)):
            check_out(path, other, force, may_replace=lambda out: True, hint=option)
    options = {"hidden": hidden, "dropout": dropout}
    options = {name: value for name, value in options.items() if value is not None}
    asked: dict[str, Any] = {
        "values": values,
        "detail": detail,
        "optimizer": Adam(DEFAULTS["learning_rate"]),
    }
    if source in reading.TRUTH_TABLES:
        if data is not None:
            raise click.UsageError(f"{source} is a truth table, and takes no DATA.")
        model, table = untrained(source, backend, options)
        X, y = model.prepared(table, table)
        explanation = tinynn.explain(model.net, X, y, loss=model.loss, **asked)
    else:
        check_model(source, data, options)
        model, table = opened(source, backend), reading.read(str(data)).head(rows)
        explanation = tinynn.explain(model, table, table, **asked)
    click.echo(str(explanation), nl=False)
    for path, _, _ in wanted:
        if path is not None:
            save(explanation, path)
            click.echo(f"wrote {path}", err=True)


def save(explanation: Any, path: str) -> None:
    """Write a file, or say what is missing for it."""
    try:
        explanation.save(path)
    except ImportError as error:
        raise click.ClickException(str(error)) from error


def check_ending(path: str | None, endings: tuple[str, ...], option: str) -> None:
    """Refuse a file of another ending."""
    if path is not None and Path(path).suffix.lower() not in endings:
        raise click.BadParameter(
            f"expected a file that ends in {' or '.join(endings)}, got {path!r}.", param_hint=option
        )


def check_model(source: str, data: str | None, options: dict[str, Any]) -> None:
    """Refuse, before any work, what does not go with a model's file."""
    if not os.path.isfile(source):
        raise click.UsageError(
            f"{source}: expected a model's file or a truth table "
            f"({', '.join(reading.TRUTH_TABLES)}), got no file of that name."
        )
    if options:
        raise click.UsageError(f"--{next(iter(options))} is for truth tables: a model has its own.")
    if data is None:
        raise click.UsageError("Say DATA: which table is the step on?")


def untrained(
    name: str, backend: backends.Backend, options: dict[str, Any]
) -> tuple[tinynn.Model, Any]:
    """A model of the network that `tinynn train` has for a truth table, and the table."""
    table = reading.read(name)
    model = fit_table(
        table, "out", validation=0.0, epochs=1, backend=backend, progress=False,
        report=lambda line: None, **options,
    )  # fmt: skip
    return model, table
