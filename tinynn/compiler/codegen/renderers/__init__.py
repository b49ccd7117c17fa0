"""Renderers: each turns a function of the loop language into the text of one target.

To add a target, write a file with `render(function) -> str` and `RESERVED`, the names that mean
something there, give each `Operation` its text for it, and add rows here, of a name that
`backends.lowering.LoopCompiler.language` may have.
"""

from tinynn.compiler.codegen.operations import OPERATIONS
from tinynn.compiler.codegen.renderers import cuda, llvm, python

#: The renderers, by what a `LoopCompiler` says that it takes.
RENDERERS = {"python": python.render, "cuda": cuda.render, "llvm": llvm.render}

#: Names that mean something in a target, and no value may have.
RESERVED = python.RESERVED | cuda.RESERVED | set(OPERATIONS)
