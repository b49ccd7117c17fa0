"""The command line: `tinynn train`, `tinynn predict`, `tinynn backends`.

Exit status 0 is success, 1 a problem with the data, a file or a device, 2 a command that was not
understood. A problem is one message on the error stream.
"""

from tinynn.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line with the arguments of this process."""
    app(prog_name="tinynn")
