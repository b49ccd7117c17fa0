"""The commands and their options."""

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
from tinynn import parallel
from tinynn.cli import parts, reading, writing
from tinynn.cli.explaining import show_step
from tinynn.cli.options import (
    DEFAULTS,
    backend_option,
    check_out,
    force_option,
    memory_option,
    opened,
    orders,
    widths,
)
from tinynn.tabular import fit_table, fitting
from tinynn.tabular.folds import checkpoint_of
from tinynn.tabular.table import listed
from tinynn.training import Run, files
from tinynn.training.signals import unwinding

INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


def of_launcher() -> parallel.Communicator | None:
    """The communicator of what started this process as one of several; None for one alone."""
    try:
        return parallel.communicator("auto")
    except ImportError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def others_end_too(together: parallel.Communicator | None) -> Iterator[None]:
    """A context in which an error ends the processes that would wait for this one."""
    try:
        yield
    except Exception as error:
        # Where all have it, as ParallelError says, each ends by itself.
        if together is not None and not isinstance(error, parallel.ParallelError):
            together.abort(str(error))
        raise


@contextmanager
def plain_messages() -> Iterator[None]:
    """Problems that a user can fix become one message; warnings become one line."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        # Of warnings about numbers those of `fit` are for the user; a library's are not.
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("always", message="fit(_many)?: ", category=RuntimeWarning)
        try:
            yield
        except BrokenPipeError:
            raise  # the reader of our output has gone: click ends quietly
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except (
            ValueError,
            OSError,
            ImportError,
            parallel.ParallelError,
            backends.BackendUnavailable,
        ) as error:
            raise click.ClickException(str(error)) from error


def interruptions() -> Callable[[], bool]:
    """A function that says whether `fit` was ended by Ctrl-C since: it warns of it."""
    seen: list[bool] = []
    show = warnings.showwarning

    def watch(message: Warning | str, *rest: Any, **options: Any) -> None:
        seen.append(": interrupted" in str(message))
        show(message, *rest, **options)

    warnings.showwarning = watch  # until `plain_messages` restores it
    return lambda: any(seen)


class App(click.Group):
    """A group of commands that answers problems with a message and not with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with plain_messages():
            return super().invoke(ctx)


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tinynn.__version__, prog_name="tinynn")
def app() -> None:
    """Small neural networks on whatever array library you already have."""


app.add_command(show_step)


@app.command("backends")
@click.option("--measure", is_flag=True, help="Try what is advised, and show what it gains.")
def show_backends(measure: bool) -> None:
    """List the array libraries: which can be used, and what would fix the others.

    Where a setting of this machine's would make one faster, it is said.
    """
    writing.show_backends()
    for status in backends.available():
        advice = type(backends.get(status.name)).advice() if status.usable else None
        if advice is not None:
            click.echo(f"{status.name}: {advice.text}" + (gain(advice) if measure else ""))


def gain(advice: backends.Advice) -> str:
    """The gain of following the advice here, measured in processes of their own."""
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
    epilog=f"The truth tables: {', '.join(reading.TRUTH_TABLES)}; their columns are a, b and out, "
    "and no row is held out.",
)
@click.argument("data")
@click.option("--target", metavar="COLUMN", help="The column to predict. Of a truth table: out.")
@backend_option
@click.option("--out", type=click.Path(dir_okay=False), help="Save the model here.")
@click.option(
    "--hidden",
    metavar="WIDTHS",
    default=",".join(map(str, DEFAULTS["hidden"])),
    callback=widths,
    show_default=True,
    help="Widths of the hidden layers; none for a linear model.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    show_default=f"{fitting.LEAST_EPOCHS}, or more for {fitting.LEAST_STEPS} steps in all",
    help="How often to go through the data.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=DEFAULTS["batch_size"], show_default=True
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULTS["learning_rate"],
    show_default=True,
    help="Of Adam.",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS["dropout"],
    show_default=True,
    help="After each hidden layer.",
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS["label_smoothing"],
    show_default=True,
    help="Of the cross-entropies.",
)
@click.option(
    "--loss",
    type=click.Choice(list(fitting.LOSSES)),
    help="Default: cross_entropy for a target of texts or few whole numbers, else squared_error.",
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULTS["validation"],
    show_default=True,
    help="The fraction of the rows to hold out and score; the same of each class.",
)
@click.option(
    "--networks",
    type=click.IntRange(1),
    default=DEFAULTS["networks"],
    show_default=True,
    help="How many to train at once, each from a seed of its own; the best is saved.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Cross-validate: score each network on each fold, trained without it. The model that is "
    "saved is trained on all rows.",
)
@click.option(
    "--class-weight",
    type=click.Choice(["balanced"]),
    help="Let each class count the same in the loss, however many rows it has.",
)
@click.option("--category", multiple=True, metavar="COLUMN", help="Read it as categories.")
@click.option("--drop", multiple=True, metavar="COLUMN", help="A column to leave out.")
@click.option("--id", multiple=True, metavar="COLUMN", help="The same: it tells rows apart.")
@click.option(
    "--date",
    multiple=True,
    metavar="COLUMN=ORDER",
    callback=orders,
    help="The order of day, month and year in a column: ymd, dmy or mdy.",
)
@click.option("--decimal", type=click.Choice([".", ","]), help="Of numbers, where it is not clear.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=DEFAULTS["seed"], show_default=True
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the state of training here, again and again; of --folds in files beside it.",
)
@click.option("--resume", is_flag=True, help="Go on from --checkpoint, if it is there.")
@click.option("--no-progress", is_flag=True, help="Show no progress.")
@memory_option
@force_option
def train(
    data: str,
    target: str | None,
    backend: backends.Backend,
    out: str | None,
    validation: float,
    category: tuple[str, ...],
    drop: tuple[str, ...],
    id: tuple[str, ...],
    date: dict[str, str],
    networks: int,
    folds: int | None,
    checkpoint: str | None,
    resume: bool,
    no_progress: bool,
    memory: int,
    force: bool,
    **options: Any,
) -> None:
    """Train a network on DATA: a table in a file, "-" for standard input, or a truth table.

    Tables are .csv, .tsv, .parquet, .feather, .arrow, .jsonl, .ndjson and .npz. Numbers are
    standardised, texts become categories, dates a time with its cycles, as the training part has
    them; cells may be missing. Columns that never change, the index of a data frame and texts that
    differ from row to row are left out, and named. An existing --out is replaced if it is a model,
    and only by a whole new one. After Ctrl-C the model of the last whole epoch is saved, none while
    folds are trained, and the exit status is 130; with --checkpoint training can be gone on with,
    by the same command and --resume. A file of more than a quarter of --memory is read in parts,
    over and over, an .npz excepted; standard input of that size is kept in a temporary file.

    Started by mpiexec or torchrun, all processes train together, each on its rows of every batch;
    the first one alone prints and writes.
    """
    communicator = of_launcher()
    first = communicator is None or communicator.rank == 0
    with others_end_too(communicator):
        check_out(out, data, force, may_replace=is_model)
        kept = [] if checkpoint is None else [checkpoint]
        kept += [checkpoint_of(each, fold) for each in kept for fold in range(folds or 0)]
        for each in kept:
            check_out(each, data, force, may_replace=is_checkpoint, hint="'--checkpoint'")
        if out is not None and os.path.realpath(out) in map(os.path.realpath, kept):
            raise click.UsageError(f"--out: {out} is where --checkpoint writes: give another name.")
        if resume and checkpoint is None:
            raise click.UsageError("--resume goes on from a file: say --checkpoint.")
        table = parts.opened(data, memory)
        truth = data in reading.TRUTH_TABLES
        target = target or ("out" if truth else None)
        if target is None:
            raise click.UsageError(f"Say --target: which column? {data} has {listed(table.names)}.")
        if networks > 1 and folds is None and (truth or not validation):
            raise click.UsageError(
                "--networks needs rows to compare on: say --folds or --validation."
            )
        start, interrupted = perf_counter(), interruptions()
        single = networks == 1 and folds is None
        model = fit_table(
            table,
            target,
            validation=0.0 if truth else validation,
            categories=category,
            drop=(*drop, *id),
            dates=date,
            backend=backend,
            progress=False if no_progress else None,
            networks=networks,
            folds=folds,
            callbacks=[] if no_progress or not single or sys.stderr.isatty() else [show_epoch],
            communicator=communicator,
            checkpoint=checkpoint,
            resume=resume,
            report=click.echo if first else lambda line: None,
            **options,
        )
    if not first:
        return
    seconds = perf_counter() - start
    epochs = len(model.history["epoch"])
    click.echo(f"trained {epochs} epochs on {backend!r} in {seconds:.1f} s")
    if out is None:
        click.echo("not saved: say --out FILE to keep the model")
    else:
        model.save(out)
        click.echo(f"saved {out} ({os.path.getsize(out):,} bytes)")
    if interrupted():
        raise click.exceptions.Exit(INTERRUPTED)


@app.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("data")
@backend_option
@click.option("--out", type=click.Path(dir_okay=False), help="Write here, not to the output.")
@click.option("--id", metavar="COLUMN", help="A column of DATA to put beside the answers.")
@click.option("--probabilities", is_flag=True, help="Give the probability of every class.")
@click.option(
    "--interval",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Give bounds that hold this share of the numbers, such as 0.9; of classes, for each "
    "whether it is in a set that holds the right one as often.",
)
@memory_option
@force_option
def predict(
    file: str,
    data: str,
    backend: backends.Backend,
    out: str | None,
    id: str | None,
    probabilities: bool,
    interval: float | None,
    memory: int,
    force: bool,
) -> None:
    """Predict each row of DATA, a file or "-", with the model in FILE, as CSV or as --out ends.

    DATA needs the columns that the model was trained on; others do not matter. Missing cells and
    categories that training did not meet are counted in a warning. If DATA has the target too, the
    answers are scored. --out is .csv, .parquet, .feather, .arrow, .jsonl or .ndjson; it is there
    when all answers are, and an existing one is replaced if it ends so. What is large is read, and
    answered, in parts, as `tinynn train` reads it; CSV from standard input as it comes.
    """
    check_out(out, data, force, may_replace=lambda path: path.suffix.lower() in writing.FORMATS)
    check_out(out, file, force, may_replace=lambda path: True)
    ending = ".csv" if out is None else Path(out).suffix.lower()
    if ending not in writing.FORMATS:
        raise click.BadParameter(
            f"{out}: expected a file that ends in {', '.join(writing.FORMATS)}, got "
            f"{ending or 'no ending'!r}. Give it one of these.",
            param_hint="'--out'",
        )
    model = opened(file, backend)
    answers = writing.Answers(model, parts.each(data, memory), id, probabilities, interval)
    pieces = writing.FORMATS[ending](answers)
    if out is None:
        for text in pieces:
            click.echo(text, nl=False)
    else:
        with unwinding():
            files.write(out, pieces)
        click.echo(f"wrote {out} ({answers.rows} rows)", err=True)
    if answers.unscored:
        click.echo(answers.unscored, err=True)
    elif answers.score.count:
        click.echo(answers.score, err=True)


@app.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("out", type=click.Path(dir_okay=False))
@force_option
def export(file: str, out: str, force: bool) -> None:
    """Write the model in FILE to OUT, an ONNX file, for other programs to run.

    It takes the columns of a table and gives classes by name, or numbers in their unit. An
    existing OUT is replaced if it ends in .onnx.
    """
    check_out(
        out, file, force, may_replace=lambda path: path.suffix.lower() == ".onnx", hint="'OUT'"
    )
    try:
        tinynn.load(file).to_onnx(out)
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {out} ({os.path.getsize(out):,} bytes)")


def is_model(path: Path, kind: str | tuple[str, ...] = "model") -> bool:
    """True if a file is a whole model of tinynn."""
    try:
        files.read(path, kind)
    except (files.ModelFileError, OSError):
        return False
    return True


def is_checkpoint(path: Path) -> bool:
    """True if a file is a whole checkpoint of one network or of several."""
    return is_model(path, ("checkpoint", "stack checkpoint"))


def show_epoch(run: Run) -> None:
    """Ten lines of progress where no bar can be shown."""
    if run.rank:  # another process shows them
        return
    if run.epoch % max(1, run.epochs // 10) and run.epoch != run.epochs:
        return
    row = run.history.last
    shown = [f"{name.replace('_', ' ')} {row[name]:.4g}" for name in row if name != "epoch"]
    click.echo("  ".join([f"epoch {run.epoch}/{run.epochs}", *shown]), err=True)
