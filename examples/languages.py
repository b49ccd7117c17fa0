"""A GRU reads a word letter by letter and says which language it is of.

2,400 words of six languages, each of one of them alone, from the names of countries, languages
and currencies. A fifth is held out: words that the network has never seen. It has to learn what
words of a language look like, "sch" and "-nen" and "-lar".

Words differ in length. `Ragged` keeps them without padding, and each batch has words of about one
length.

Run it on any library you have: python examples/languages.py --backend torch
"""

import csv
from pathlib import Path

import click
import numpy as np

import backends
from tinynn import fit
from tinynn.data import Ragged, pad_sequences
from tinynn.layers import GRU, Bidirectional, Dropout, Embedding, Layer, Linear
from tinynn.optim import Adam

WORDS = Path(__file__).parent / "data" / "words.csv"


class Reader(Layer):
    """Letters and their number to a score for each language."""

    def __init__(self, letters, languages):
        self.letters, self.languages = letters, languages

    def forward(self, scope, ids, lengths):
        x = scope("letters", Embedding(self.letters, 16), ids)
        y = scope("memory", Bidirectional(GRU(32)), x, lengths)
        return scope("scores", Linear(self.languages), scope("dropout", Dropout(0.3), y))


def words():
    """(words as lists of letters' numbers, numbers of languages, letters, names of languages)."""
    with WORDS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    letters = sorted({letter for row in rows for letter in row["word"]})
    names = sorted({row["language"] for row in rows})
    ids = [[letters.index(letter) for letter in row["word"]] for row in rows]
    return ids, np.asarray([names.index(row["language"]) for row in rows]), letters, names


def main(backend, epochs=15, rows=None, **options):
    """The model, and the share of held-out words whose language was found."""
    backend = backends.get(backend)
    ids, y, letters, names = words()
    order = np.random.default_rng(0).permutation(len(y))[:rows]
    held, rest = np.split(order, [len(order) // 5])

    def given(numbers):
        return [backend.asarray(ids[i], dtype="int32") for i in numbers]

    model = fit(
        Reader(len(letters), len(names)), Ragged(given(rest), buckets=4), backend.asarray(y[rest]),
        loss="softmax_cross_entropy", optimizer=Adam(0.005), epochs=epochs, progress=False,
        **options,
    )  # fmt: skip
    scores = backend.to_host(model.predict(pad_sequences(given(held))))
    found = scores.argmax(axis=1)
    share = float(np.mean(found == y[held]))
    print(f"the language of {share:.1%} of {len(held)} held-out words is found")
    for i in range(8):
        word = "".join(letters[letter] for letter in ids[held[i]])
        print(f"{word}: {names[found[i]]}" + ("" if found[i] == y[held[i]] else ", which is wrong"))
    return model, share


@click.command(help=__doc__)
@click.option("--backend", default="numpy", help='A library and device, such as "torch:cpu".')
def command(backend):
    main(backend)


if __name__ == "__main__":
    command()
