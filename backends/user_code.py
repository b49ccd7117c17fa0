"""The user's own code, as Python's stack tells it from that of this library."""

import os
import sys
import warnings
from pathlib import Path
from types import FrameType

_OURS = tuple(f"{Path(__file__).parents[1] / room}{os.sep}" for room in ("tinynn", "backends"))
_known_as_ours: set[str] = set()  # files


def user_frame() -> tuple[FrameType | None, int]:
    """The innermost frame that runs code of the user's, and how many frames it is away.

    Code of other libraries, NumPy's for one, counts as the user's.

    Returns
    -------
    tuple[FrameType | None, int]
        The frame, and 0 for that of the caller, 1 for the caller's caller, and so on. None where
        all frames are of this library.
    """
    frame: FrameType | None = sys._getframe(1)
    depth = 0
    while frame is not None:
        path = frame.f_code.co_filename
        if path not in _known_as_ours:
            if not path.startswith(_OURS):
                break
            _known_as_ours.add(path)
        frame, depth = frame.f_back, depth + 1
    return frame, depth


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warn of a line of the user's, whatever lies between it and here.

    Python 3.12 has this as ``warnings.warn(skip_file_prefixes=...)``.

    Parameters
    ----------
    message
        The text.
    category
        The class of the warning.
    """
    _, depth = user_frame()
    warnings.warn(message, category, stacklevel=depth + 1)
