"""The training step for people: described once, and read as text, as a picture and as a page.

(The package is not called `explain`, since `tinynn.explain` is the function.)
"""

from tinynn.explanation.explanation import Explanation, explain
from tinynn.explanation.lines import Line

__all__ = ["Explanation", "Line", "explain"]
