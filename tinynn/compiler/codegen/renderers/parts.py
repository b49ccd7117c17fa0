"""Text that is alike in every target."""

from tinynn.compiler.codegen.language import Index


def index_text(index: Index) -> str:
    """A place in memory."""
    terms = [v.name if factor == 1 else f"{v.name} * {factor}" for v, factor in index.terms]
    if index.offset or not terms:
        terms.append(str(index.offset))
    return " + ".join(terms)
