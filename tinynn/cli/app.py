"""The commands and their options."""

import csv
import io
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import click

import backends
import tinynn
from tinynn.cli import learn
from tinynn.cli.encoding import Category, Encoding, has_classes, prepare
from tinynn.cli.table import TRUTH_TABLES, Table, TableError, listed, read
from tinynn.data import host
from tinynn.training import files, load
from tinynn.training.callbacks import Run

DEFAULTS = learn.Settings()


@contextmanager
def plain_messages() -> Iterator[None]:
    """Problems that a user can fix become one message; warnings become one line."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        # Of warnings about numbers those of `fit` are for the user; a library's are not.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("always", message="fit: ", category=RuntimeWarning)
        try:
            yield
        except BrokenPipeError:
            raise  # the reader of our output has gone: click ends quietly
        except (ValueError, OSError, backends.BackendUnavailable) as error:
            raise click.ClickException(str(error)) from error


class App(click.Group):
    """A group of commands that answers problems with a message and not with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with plain_messages():
            return super().invoke(ctx)


def widths(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Widths of layers as integers, from "64,32" or "none"."""
    parts = [] if value.strip().lower() == "none" else value.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"expected widths such as 64,32 or none, got {value!r}.")
    return tuple(map(int, parts))


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
force_option = click.option("--force", is_flag=True, help="Replace any file that --out names.")


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tinynn.__version__, prog_name="tinynn")
def app() -> None:
    """Small neural networks on whatever array library you already have."""


@app.command("backends")
@click.option("--measure", is_flag=True, help="Try what is advised, and show what it gains.")
def show_backends(measure: bool) -> None:
    """List the array libraries: which can be used, and what would fix the others.

    Where a setting of this machine's would make one faster, it is said.
    """
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid("library", "version", "devices", "default float", "usable")
    for status in backends.available():
        usable = "yes" if status.usable else f"no: {status.reason}\nto fix it: {status.fix}"
        devices = ", ".join(status.devices)
        cells = (status.name, status.version, devices, status.default_float, usable)
        # As Text, because "[" would begin a style; and folded, so that no command loses its end.
        grid.add_row(*(Text(cell, overflow="fold") for cell in cells))
    # Away from a terminal a command stays on one line.
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(grid)
    for status in backends.available():
        advice = type(backends.get(status.name)).advice() if status.usable else None
        if advice is not None:
            click.echo(f"{status.name}: {advice.text}" + (gain(advice) if measure else ""))


def gain(advice: backends.Advice) -> str:
    """What following the advice gains here, measured in processes of their own."""
    before, after = (
        float(
            subprocess.run(
                [sys.executable, "-c", advice.probe],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for environment in ({}, advice.environment)
    )
    return f"; measured here: {before / after:.2f} times as fast"


@app.command(
    epilog=f"The truth tables: {', '.join(TRUTH_TABLES)}; their columns are a, b and out, and no "
    "row is held out.",
)
@click.argument("data")
@click.option("--target", metavar="COLUMN", help="The column to predict. Of a truth table: out.")
@backend_option
@click.option("--out", type=click.Path(dir_okay=False), help="Save the model here.")
@click.option(
    "--hidden",
    metavar="WIDTHS",
    default=",".join(map(str, DEFAULTS.hidden)),
    callback=widths,
    show_default=True,
    help="Widths of the hidden layers; none for a linear model.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    show_default=f"{learn.LEAST_EPOCHS}, or more for {learn.LEAST_STEPS} steps in all",
    help="How often to go through the data.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=DEFAULTS.batch_size, show_default=True
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULTS.learning_rate,
    show_default=True,
    help="Of Adam.",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS.dropout,
    show_default=True,
    help="After each hidden layer.",
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS.label_smoothing,
    show_default=True,
    help="Of the cross-entropies.",
)
@click.option(
    "--loss",
    type=click.Choice(list(learn.LOSSES)),
    help="Default: cross_entropy for a target of texts or few whole numbers, else squared_error.",
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="The fraction of the rows to hold out and score; the same of each class.",
)
@click.option("--category", multiple=True, metavar="COLUMN", help="Numbers that are categories.")
@click.option("--drop", multiple=True, metavar="COLUMN", help="A column to leave out.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=DEFAULTS.seed, show_default=True)
@click.option("--no-progress", is_flag=True, help="Show no progress.")
@force_option
def train(
    data: str,
    target: str | None,
    backend: backends.Backend,
    out: str | None,
    loss: str | None,
    validation: float,
    category: tuple[str, ...],
    drop: tuple[str, ...],
    no_progress: bool,
    force: bool,
    **options: Any,
) -> None:
    """Train a network on DATA: a .csv, .tsv, .npz or .parquet file, or a truth table.

    Numbers are standardised and texts become categories, as the training part has them; columns
    that never change are left out. An existing --out is replaced if it is a model, and only by a
    whole new one.
    """
    check_out(out, data, force, may_replace=is_model)
    settings = learn.Settings(**options)
    table = read(data)
    target = target or table.target
    if target is None:
        raise click.UsageError(f"Say --target: which column? {data} has {listed(table.columns)}.")
    if loss is None:
        loss = "cross_entropy" if has_classes(table, target) else "squared_error"
    encoding, training, held = prepare(
        table,
        target,
        classes=learn.LOSSES[loss] is not None,
        categories=category,
        drop=drop,
        fraction=0.0 if table.target else validation,
        seed=settings.seed,
    )
    learn.check_classes(loss, encoding)
    describe(table, encoding, held)

    held_out = table.take(held) if held else None
    start = perf_counter()
    model = learn.train(
        encoding,
        loss,
        settings,
        table.take(training),
        held_out,
        backend,
        progress=False if no_progress else None,
        callbacks=[] if no_progress or sys.stderr.isatty() else [show_epoch],
    )
    seconds = perf_counter() - start
    if not math.isfinite(model.history["loss"][-1]):
        raise click.ClickException("training diverged. Lower --learning-rate; nothing was saved.")
    epochs = len(model.history["epoch"])
    click.echo(f"trained {epochs} epochs on {backend!r} in {seconds:.1f} s")
    part = "held-out" if held_out else "training"
    score = learn.answer(model, held_out or table).score(encoding, held_out or table)
    click.secho(f"{part} {score}", bold=True)
    if out is None:
        click.echo("not saved: say --out FILE to keep the model")
    else:
        model.save(out)
        click.echo(f"saved {out} ({os.path.getsize(out):,} bytes)")


@app.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("data")
@backend_option
@click.option("--out", type=click.Path(dir_okay=False), help="Write here, not to the output.")
@force_option
def predict(file: str, data: str, backend: backends.Backend, out: str | None, force: bool) -> None:
    """Predict each row of DATA with the model in FILE, as CSV.

    DATA needs the columns that the model was trained on; others do not matter. If it has the
    target too, the answers are scored. An existing --out is replaced if it ends in .csv.
    """
    check_out(out, data, force, may_replace=lambda path: path.suffix.lower() == ".csv")
    check_out(out, file, force, may_replace=lambda path: True)
    try:
        model = load(file, backend)
    except TypeError as error:  # of a dtype that the device lacks
        raise click.ClickException(str(error)) from error
    table = read(data)
    encoding = learn.encoding_of(model)
    answers = learn.answer(model, table)
    text = as_csv(answers)
    if out is None:
        click.echo(text, nl=False)
    else:
        files.write(out, text.encode())
        click.echo(f"wrote {out} ({len(table)} rows)", err=True)
    if encoding.target.name in table.columns:
        try:
            click.echo(answers.score(encoding, table), err=True)
        except TableError as error:  # the answers are there; not every table knows better
            click.echo(f"not scored: {error}", err=True)


@app.command("explain")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("data")
@backend_option
@click.option("--rows", type=click.IntRange(1), default=4, show_default=True, help="Of DATA.")
@click.option("--values", is_flag=True, help="Carry the step out, and show what each line gives.")
@click.option("--svg", type=click.Path(dir_okay=False), help="Draw the step here.")
@force_option
def show_step(
    file: str,
    data: str,
    backend: backends.Backend,
    rows: int,
    values: bool,
    svg: str | None,
    force: bool,
) -> None:
    """Show a training step of the model in FILE on the first rows of DATA, as a program.

    It is the program that training runs: the forward pass, the backward pass and Adam's update,
    every line with the shape of its result and the layer that it comes from.
    """
    check_out(svg, data, force, may_replace=lambda path: path.suffix.lower() == ".svg")
    check_out(svg, file, force, may_replace=lambda path: True)
    table = read(data)
    explanation = learn.explained(
        load(file, backend), table.take(list(range(min(rows, len(table))))), values
    )
    click.echo(explanation.source, nl=False)
    if svg is not None:
        files.write(svg, explanation.svg.encode())
        click.echo(f"wrote {svg}", err=True)


def as_csv(answers: learn.Answers) -> str:
    """The answers as CSV, a line for each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if answers.probabilities is None:
        writer.writerow(["prediction"])
        writer.writerows([f"{value:.8g}"] for value in answers.values)
    else:
        writer.writerow(["prediction", "probability"])
        rows = zip(answers.values, answers.probabilities, strict=True)
        writer.writerows([value, f"{probability:.6f}"] for value, probability in rows)
    return text.getvalue()


def check_out(
    out: str | None, source: str, force: bool, may_replace: Callable[[Path], bool]
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
        raise click.BadParameter(f"{out}: {problem}.", param_hint="'--out'")


def is_model(path: Path) -> bool:
    """Whether a file is a whole model of tinynn."""
    try:
        files.read(path)
    except (files.ModelFileError, OSError):
        return False
    return True


def describe(table: Table, encoding: Encoding, held: list[int]) -> None:
    """Say what was understood of a table."""
    target = encoding.target
    kind = "a number"
    if isinstance(target, Category):
        kind = f"one of {listed(target.categories)}"
    click.echo(f"{table.source}: {len(table)} rows, {len(held)} of them held out")
    click.echo(f"target {target.name!r}: {kind}; from {encoding.width} inputs")
    if encoding.constant:
        click.echo(f"left out, as they never change: {listed(encoding.constant)}")


def show_epoch(run: Run) -> None:
    """Ten lines of progress where no bar can be shown."""
    if run.epoch % max(1, run.epochs // 10) and run.epoch != run.epochs:
        return
    row = run.history.last
    shown = [f"{name.replace('_', ' ')} {row[name]:.4g}" for name in row if name != "epoch"]
    click.echo("  ".join([f"epoch {run.epoch}/{run.epochs}", *shown]), err=True)
