"""The compiler: recorded graphs, the passes over them, and the emitters that make programs."""

from tinynn.compiler.compiled import Compiled, compile
from tinynn.transforms.record import RecordingError

__all__ = ["Compiled", "RecordingError", "compile"]
