"""A character-level transformer learns to write like the manual of Python's language.

The text is that of `help("topics")`, which is part of Python (pydoc_data.topics; the licence is
PSF-2.0). The network reads characters and says of each place which one comes next; a part of the
text is held out. Then it writes by itself, a character at a time, from keys and values that a cache
keeps.

Run it on any library you have: python examples/character_transformer.py --backend torch
"""

from dataclasses import dataclass
from pydoc_data.topics import topics

import click
import numpy as np

import backends
import tinynn
from tinynn import fit
from tinynn.layers import (
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    TransformerEncoderBlock,
)
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import AdamW, Chain, ClipByGlobalNorm

LENGTH = 64


@dataclass(frozen=True)
class Characters(Layer):
    """Scores of the next character, (batch, time, count), for ids of characters, (batch, time)."""

    count: int
    width: int = 64
    blocks: int = 2

    @property
    def block(self):
        return TransformerEncoderBlock(MultiHeadAttention(4, causal=True, rotary=True))

    def cache(self, like, shape):
        return [self.block.cache(like, (*shape, self.width)) for _ in range(self.blocks)]

    def forward(self, scope, ids, caches=None):
        x, kept = scope("characters", Embedding(self.count, self.width), ids), []
        for number in range(self.blocks):
            if caches is None:
                x = scope(f"block{number}", self.block, x)
            else:
                x, cache = scope(f"block{number}", self.block, x, caches[number])
                kept.append(cache)
        x = scope("scores", Linear(self.count), scope("norm", LayerNorm(), x))
        return x if caches is None else (x, kept)


def read(size=100_000):
    """The text, its characters in order, and the number of each."""
    text = "".join(topics[name] for name in sorted(topics))[:size]
    return text, sorted(set(text))


def write(model, characters, start, length, temperature=0.7, seed=0):
    """The start, and so many more characters that the network draws one after the other."""
    prompt = np.asarray([[characters.index(character) for character in start]])
    found = tinynn.generate(model, prompt, length, temperature=temperature, seed=seed)
    return "".join(characters[i] for i in model.backend.to_host(found.ids)[0])


def main(backend, size=100_000, epochs=6, width=64, blocks=2, length=300, **settings):
    """The model, and a text that it has written."""
    backend = backends.get(backend)
    text, characters = read(size)
    ids = np.asarray([characters.index(character) for character in text], dtype="int32")
    windows = (len(ids) - 1) // LENGTH
    X, y = (ids[i : i + windows * LENGTH].reshape(windows, LENGTH) for i in (0, 1))
    model = fit(
        Characters(len(characters), width, blocks), backend.asarray(X), backend.asarray(y),
        loss=SoftmaxCrossEntropy(), optimizer=Chain(ClipByGlobalNorm(1.0), AdamW(0.003)),
        epochs=epochs, batch_size=32, validation=0.1, seed=1, **settings,
    )  # fmt: skip
    for name in ("loss", "validation_loss"):
        values = model.history[name]
        print(f"{name}: {values[0]:.3f} after one epoch, {values[-1]:.3f} after {len(values)}")
    written = write(model, characters, "The ", length)
    print(written)
    return model, written


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
