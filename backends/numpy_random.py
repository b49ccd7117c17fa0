"""A step from one key of `backends.random` to another, in Python's integers; the bits are alike."""

import numpy as np

#: The cipher's numbers: how far each round rotates, and what the keys' parity starts from.
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA

_WORD = 0xFFFFFFFF


def threefry(key: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 of one counter in a fifth of the time of calls. All int32; x0, x1: (1,)."""
    k0, k1 = (word & _WORD for word in key.tolist())
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    a, b = x0.item() + k0 & _WORD, x1.item() + k1 & _WORD
    for turn in range(5):
        for rotation in ROTATIONS[turn % 2]:
            a = a + b & _WORD
            b = (b << rotation & _WORD | b >> 32 - rotation) ^ a
        a = a + schedule[(turn + 1) % 3] & _WORD
        b = b + schedule[(turn + 2) % 3] + turn + 1 & _WORD
    words = np.asarray([[a], [b]], np.uint32).view(np.int32)
    return words[0], words[1]
