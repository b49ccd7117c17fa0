"""An emulated CUDA device on the CPU, for testing programs that use CuPy where no GPU is.

`python -m tests.cudacpu COMMAND ...` runs a command with it. See README.md.
"""
