"""The command line: `tinynn train`, `predict`, `explain`, `backends`: a cover over the library.

Exit status 0 is success, 1 a problem with the data, a file, a device or training, 2 a command that
was not understood, 130 an interruption by Ctrl-C. A problem is one message on the error stream.
"""

import sys


def main() -> None:
    """Run the command line with the arguments of this process."""
    try:
        from tinynn.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "tinynn":
            raise
        sys.stderr.write(
            f'tinynn: the command line needs {error.name}: pip install "tinynn-xp[cli]"\n'
        )
        sys.exit(1)
    app(prog_name="tinynn")
