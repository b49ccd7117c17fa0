"""Explicit loops: from a graph to the source of a kernel, by way of a language of objects.

schedule    which calls of the graph share a nest of loops, and in what order the nests run
views       where the elements of an array lie in flat memory
scalars     calls of the standard as expressions of single numbers
emitter     the statements of a step: nest, gemm and gather write them
barriers    where the threads of a block have to wait for each other
language    the objects: expressions, statements, functions
operations  the table of scalar operations, one row an operation for every target
python, cuda    renderers: a function of the language as text
interpreter     carries a function out, statement by statement, for tests
"""
