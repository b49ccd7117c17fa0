"""`python -m tests.cudacpu COMMAND ...`: runs a command that finds the emulated CUDA device."""

import os
import sys

from tests.cudacpu import toolkit


def main() -> None:
    command = sys.argv[1:]
    if not command:
        sys.exit("usage: python -m tests.cudacpu COMMAND ...")
    if command[0] == "python":  # the one that has the CuPy whose libraries were built
        command[0] = sys.executable
    elif command[0] == "pytest":
        command[:1] = [sys.executable, "-m", "pytest"]
    os.execvpe(command[0], command, toolkit.environment())


main()
