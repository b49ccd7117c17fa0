"""Networks of sequences that write on: `tinynn.generate`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_equal
from tinynn import Model
from tinynn.layers import (
    LSTM,
    Embedding,
    InputError,
    Layer,
    Linear,
    MultiHeadAttention,
    ShapeError,
    TransformerEncoderBlock,
)
from tinynn.trace import namespace
from tinynn.training import Generated, generate

pytestmark = pytest.mark.reads_scalars  # of ids and lengths that are checked, and of the end
TOKENS, WIDTH = 7, 8
BLOCK = TransformerEncoderBlock(MultiHeadAttention(2, causal=True, rotary=True))
DRAWING: dict[str, Any] = {"temperature": 1.5, "top_k": 5, "seed": 2}
PROMPT = np.asarray([[1, 2, 3], [4, 5, 6]])


@dataclass(frozen=True)
class Writer(Layer):
    """Scores of the next token, by attention or by an LSTM."""

    recurrent: bool = False

    @property
    def memory(self) -> Any:
        return LSTM(WIDTH, return_sequences=True) if self.recurrent else BLOCK

    def cache(self, like: Any, shape: Any) -> Any:
        if not self.recurrent:
            return BLOCK.cache(like, (*shape, WIDTH))
        backend = backends.of(like)
        rows = backend.xp.zeros((shape[0], 1), dtype=like.dtype, device=backend.device)
        return self.memory.carry(rows)

    def forward(self, scope: Any, ids: Any, cache: Any) -> Any:
        x, cache = scope("memory", self.memory, scope("tokens", EMBED, ids), cache)
        return scope("scores", Linear(TOKENS), x), cache


EMBED = Embedding(TOKENS, WIDTH)


def made(net: Any, backend: Any, seed: int = 3) -> Model:
    like = np.zeros((1, 1), dtype="float32")
    params, _ = net.init(seed, PROMPT, net.cache(like, (2, 8)))
    params = tinynn.tree.map(lambda a: np.asarray(3.0 * a, dtype="float32"), params)
    return Model(net, params).to(backend)


def by_hand(model: Model, prompt: Any, length: int) -> Any:
    """The likeliest tokens, all steps anew for each."""
    net, ids = model.net, np.asarray(prompt)
    for _ in range(length):
        like = next(iter(tinynn.tree.leaves(model.params)))
        scores, _ = net(model.params, ids, net.cache(like, (len(ids), ids.shape[1])))
        ids = np.concatenate([ids, np.argmax(scores[:, -1], axis=-1)[:, None]], axis=1)
    return ids


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_likeliest_tokens_are_those_without_a_cache(
    recurrent: bool, backend: backends.Backend
) -> None:
    net = Writer(recurrent)
    expected = by_hand(made(net, "numpy"), PROMPT, 5)
    assert len(np.unique(expected[:, 3:])) > 1
    found = generate(made(net, backend), PROMPT, 5, temperature=0.0)
    assert_equal(found.ids, expected, backend, dtype="int32")
    assert_equal(found.lengths, [8, 8], backend, dtype="int32")


def test_draws_are_the_same_everywhere(backend: backends.Backend) -> None:
    expected = generate(made(Writer(), "numpy"), PROMPT, 9, **DRAWING).ids
    found = generate(made(Writer(), backend), PROMPT, 9, **DRAWING).ids
    assert_equal(found, expected, backend, dtype="int32")


@pytest.mark.only("numpy")
def test_draws_are_of_the_row_and_the_place() -> None:
    model = made(Writer(), "numpy")
    whole = generate(model, PROMPT, 9, **DRAWING).ids
    np.testing.assert_array_equal(generate(model, PROMPT[:1], 4, **DRAWING).ids, whole[:1, :7])
    assert (generate(model, PROMPT, 9, **(DRAWING | {"seed": 4})).ids != whole).any()


def test_prompts_of_several_lengths_and_a_stop(backend: backends.Backend) -> None:
    model, lengths = made(Writer(), backend), [1, 3]
    home = made(Writer(), "numpy")
    alone = [by_hand(home, PROMPT[i : i + 1, :n], 5)[0] for i, n in enumerate(lengths)]
    if backend.name == "numpy":
        found = generate(model, PROMPT, 5, lengths=lengths, temperature=0.0, padding=6)
        assert_equal(found.lengths, [6, 8], backend, dtype="int32")
        assert_equal(found.ids, [[*alone[0], 6, 6], alone[1]], backend, dtype="int32")
    stop = int(alone[1][4])
    ends = [row.tolist().index(stop, n) + 1 if stop in row[n:] else n + 5
            for row, n in zip(alone, lengths, strict=True)]  # fmt: skip
    found = generate(model, PROMPT, 5, lengths=lengths, temperature=0.0, stop=stop)
    expected = [[*row[:end], *[0] * (8 - end)] for row, end in zip(alone, ends, strict=True)]
    assert_equal(found.ids, expected, backend, dtype="int32")
    assert_equal(found.lengths, ends, backend, dtype="int32")


@dataclass(frozen=True)
class Fixed(Layer):
    """The same scores for every step."""

    def cache(self, like: Any, shape: Any) -> Any:
        return {"none": like[:1] * 0.0}

    def forward(self, scope: Any, ids: Any, cache: Any) -> Any:
        weight = scope.param("weight", lambda key, shape, dtype: np.zeros(shape, dtype), (4,))
        xp = tinynn.trace.namespace(weight)
        return xp.broadcast_to(weight, (*ids.shape, 4)), cache


def drawn(scores: Any, **settings: Any) -> Any:
    model = Model(Fixed(), {"weight": np.asarray(scores, dtype="float32")})
    ids = generate(model, np.zeros((4000, 1), dtype=int), 2, **settings).ids[:, 1:]
    return np.bincount(ids.reshape(-1), minlength=4) / ids.size


@pytest.mark.only("numpy")
def test_tokens_are_as_frequent_as_their_scores_say() -> None:
    powers = np.asarray([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(drawn(np.log(powers)), powers, atol=0.02)
    sharp = powers**2 / (powers**2).sum()
    np.testing.assert_allclose(drawn(np.log(powers), temperature=0.5), sharp, atol=0.02)
    two = np.asarray([0.0, 0.0, 3.0, 4.0]) / 7.0
    found = drawn(np.log(powers), top_k=2)
    assert found[0] == found[1] == 0.0
    np.testing.assert_allclose(found, two, atol=0.02)
    assert drawn([0.0, 1.0, 0.0, 1.0], temperature=0.0).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert drawn([0.0, 1.0, 2.0, 0.0], top_k=1, seed=5)[2] == 1.0


@pytest.mark.only("numpy")
def test_one_program_makes_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinynn.compiler import compiled

    made_of = []
    init = compiled.Specialization.__init__
    monkeypatch.setattr(
        compiled.Specialization, "__init__", lambda *args: (made_of.append(1), init(*args))[1]
    )
    model = made(Writer(), "numpy", seed=9)
    for length in (30, 40):
        assert isinstance(generate(model, PROMPT, length, top_k=6), Generated)
    assert len(made_of) == 2  # of the prompt, and of a step


@pytest.mark.only("numpy")
def test_what_cannot_be_written_is_named() -> None:
    model = made(Writer(), "numpy")
    with pytest.raises(
        TypeError, match=r"expected a model of a network with a method cache\(like, shape\)"
    ):
        generate(Model(Linear(2), {"weight": np.ones((1, 2))}), PROMPT, 3)
    bare, x = MultiHeadAttention(2), np.ones((1, 2, 4))
    with pytest.raises(ShapeError, match=r"MultiHeadAttention\(2\): expected a cache for"):
        generate(Model(bare, *bare.init(0, x)), PROMPT, 3)
    with pytest.raises(ShapeError, match="expected a prompt of shape"):
        generate(model, PROMPT[0], 3)
    with pytest.raises(InputError, match="expected prompts of one id or more"):
        generate(model, PROMPT, 3, lengths=[0, 2])
    with pytest.raises(InputError, match=r"^layer tokens, .*ids from 0 to 6, got ids from 5 to 10"):
        generate(model, PROMPT + 4, 3)
    unsound = Model(model.net, tinynn.tree.map(lambda a: a * np.nan, model.params))
    with pytest.raises(InputError, match="got NaN"):
        generate(unsound, PROMPT, 3)
    late = np.asarray([[1, 2, 99], [4, 5, 6]])  # after the end of the shortest
    for prompt in (late, PROMPT + 2**32):
        with pytest.raises(InputError, match=r"^layer tokens, .*expected ids from 0 to 6, got"):
            generate(model, prompt, 3, lengths=[3, 1], temperature=0.0)
    with pytest.raises(TypeError, match="expected a model of a network"):
        generate(model.net, PROMPT, 3)
    for settings in (
        {"length": 0}, {"length": True}, {"top_k": 0}, {"temperature": -1.0},
        {"temperature": float("inf")}, {"temperature": None}, {"stop": 2.5}, {"padding": 2**31},
        {"seed": 1.5},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="generate: expected"):
            generate(model, PROMPT, **({"length": 3} | settings))


@dataclass(frozen=True)
class Echo(Layer):
    """Scores without parameters, of one shape or another."""

    kind: str = ""

    def cache(self, like: Any, shape: Any) -> Any:
        return {}

    def forward(self, scope: Any, ids: Any, cache: Any) -> Any:
        xp = namespace(ids)
        tokens = xp.arange(TOKENS, dtype=ids.dtype, device=ids.device)
        scores = xp.astype(xp.expand_dims(ids, axis=-1) == tokens, xp.float32)
        if self.kind == "alone":
            return scores
        return (scores[:, -1, :] if self.kind == "flat" else scores), cache


@pytest.mark.only("numpy")
def test_a_network_without_parameters() -> None:
    written = generate(Model(Echo(), {}), PROMPT[:, :1], 2, temperature=0.0)
    np.testing.assert_array_equal(written.ids[:, 2], [1, 4])


@pytest.mark.only("numpy")
def test_what_is_no_language_model_is_named() -> None:
    with pytest.raises(ShapeError, match=r"gives a pair, scores of .* got no pair"):
        generate(Model(Echo("alone"), {}), PROMPT, 2)
    with pytest.raises(ShapeError, match=r"gives a pair, .* got scores of \(2, 7\)"):
        generate(Model(Echo("flat"), {}), PROMPT, 2)


@pytest.mark.only("numpy", "torch")
def test_the_coldest_draws_take_the_likeliest(backend: backends.Backend) -> None:
    model = made(Writer(), backend)
    likeliest = backend.to_host(generate(model, PROMPT, 6, temperature=0.0).ids)
    for temperature in (1e-6, 1e-40, 5e-324):
        assert_equal(generate(model, PROMPT, 6, temperature=temperature).ids, likeliest, backend)


@pytest.mark.only("numpy")
def test_padding_that_is_no_id_and_integers_of_the_library() -> None:
    model = made(Writer(), backends.get("numpy"))
    whole = generate(model, PROMPT, 6, temperature=0.0).ids
    stop = whole[0, 3]
    found = generate(model, PROMPT, np.int64(6), temperature=0.0, stop=stop, padding=99)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.ids[0], [*whole[0, :4], *[99] * 5])
