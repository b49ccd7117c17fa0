"""The compiler: the passes over recorded graphs, and the emitters that make programs of them."""

from tinynn.compiler.compiled import Compiled, compile
from tinynn.compiler.finite import first_nonfinite
from tinynn.transforms.record import RecordingError

__all__ = ["Compiled", "RecordingError", "compile", "first_nonfinite"]
