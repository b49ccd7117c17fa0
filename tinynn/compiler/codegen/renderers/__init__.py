"""Renderers: each turns a function of the loop language into the text of one target.

To add a target, write a file with `render(function) -> str`, give each `Operation` its text for it,
and add a row here; `backends.lowering.LoopCompiler.language` names it.
"""

from tinynn.compiler.codegen.renderers import cuda, python

#: The renderers, by what a `LoopCompiler` says that it takes.
RENDERERS = {"python": python.render, "cuda": cuda.render}
