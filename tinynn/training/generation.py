"""Generation: a network of sequences writes on, a token at a time."""

from collections.abc import Callable
from functools import lru_cache
from operator import index
from typing import Any, NamedTuple, TypeAlias

from backends import Backend, random
from tinynn import compiler, tree
from tinynn.functional.lengths import valid_steps
from tinynn.layers import InputError, ShapeError, run
from tinynn.trace import namespace
from tinynn.training.model import Model

Array: TypeAlias = Any

_BLOCK = 64  # draws of a sequence that one key makes: the first ones are those of a longer text
_COLDEST = 1e-30  # a temperature by which float32 can be divided, as good as 0
_LAST = 2**31 - 1  # the last id
_PROGRAMS = 8  # networks and settings whose programs are kept


class Generated(NamedTuple):
    """What `generate` has written.

    Attributes
    ----------
    ids
        (batch, prompt + length) int32 on the model's backend: the prompts, and the new tokens right
        after each. Where a sequence is at its end already, `padding` stands.
    lengths
        (batch,) int32, how many of them each sequence has, its stop token among them.
    """

    ids: Array
    lengths: Array


class _Settings(NamedTuple):
    """What a program is made for, beside the network: see `generate`."""

    greedy: bool
    top_k: int | None
    stop: int | None
    padding: int
    ragged: bool


def generate(
    model: Model,
    prompt: Any,
    length: int,
    *,
    lengths: Any = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop: int | None = None,
    padding: int = 0,
    seed: int = 0,
) -> Generated:
    """Let a network of sequences go on with prompts, a token at a time.

    Parameters
    ----------
    model
        Its network takes ids, (batch, time) integers, and a cache, and gives a pair: the scores of
        each step's next token, (batch, time, tokens), and the new cache. A method `cache(like,
        shape)` makes an empty one, of the dtype and device of an array, for (batch, time) ids: of
        `MultiHeadAttention.cache`, of the `carry` of recurrent layers, or a tree of several.
    prompt
        (batch, time) ids of the tokens to begin with, one or more each.
    length
        The number of new tokens of each sequence.
    lengths
        (batch,) integers, how many ids of each prompt are no padding; None: all. Each sequence
        goes on where its own prompt ends.
    temperature
        What scores are divided by: below 1 likely tokens become likelier, 0 always takes the
        likeliest, of equal ones the first.
    top_k
        Draw among the so many likeliest tokens alone (and those as likely as the last of them).
    stop
        The token that ends a sequence. Whether all have ended is read after every step.
    padding
        The id that stands behind the end of a sequence.
    seed
        Of the draws, which are those of `backends.random`: the same on every library, for a row
        whatever the batch is, and for the first tokens however many follow.

    Returns
    -------
    Generated
        The ids and the lengths of the sequences.

    Raises
    ------
    TypeError
        The network makes no cache, or a setting is no number.
    ShapeError, InputError, ValueError
        The prompt, its lengths or a setting is not as above; the scores are of another shape; or
        they are NaN, as an `Embedding` gives them for ids out of range.

    Notes
    -----
    The prompt, up to the end of the shortest, passes at once; after it one compiled program makes
    every step, in a cache that is written in place. Programs are kept for the next call with a
    network, batch and cache of the same size. Lengths of caches are powers of two, 64 and more.

    References
    ----------
    Sampling among the likeliest: Fan, Lewis and Dauphin 2018, arXiv:1805.04833.

    Examples
    --------
    >>> import numpy as np
    >>> from dataclasses import dataclass
    >>> from tinynn.layers import GRU, Embedding, Layer, Linear
    >>> @dataclass(frozen=True)
    ... class Writer(Layer):
    ...     def cache(self, like, shape):
    ...         return GRU(8).carry(like.reshape(1, -1)[:, :1].repeat(shape[0], axis=0))
    ...     def forward(self, scope, ids, carry):
    ...         x = scope("tokens", Embedding(5, 4), ids)
    ...         x, carry = scope("memory", GRU(8, return_sequences=True), x, carry)
    ...         return scope("scores", Linear(5), x), carry
    >>> net, prompt = Writer(), np.asarray([[1, 2]])
    >>> params, _ = net.init(0, prompt, GRU(8).carry(np.zeros((1, 1), "float32")))
    >>> generate(Model(net, params), prompt, 6, seed=1).ids.shape
    (1, 8)
    """
    _check(model, temperature)
    length = _whole("length", length, 1)
    top_k = None if top_k is None else _whole("top_k", top_k, 1)
    stop = None if stop is None else _whole("stop", stop, 0)
    padding, seed = _whole("padding", padding, -_LAST), _whole("seed", seed)
    backend = model.backend
    with backend.scope():
        ids, valid, shortest = _prompt(backend, prompt, lengths)
        settings = _Settings(temperature == 0.0, top_k, stop, padding, valid is not None)
        return _written(model, ids, valid, shortest, length, settings, float(temperature), seed)


def _written(
    model: Model,
    prompt: Array,
    valid: Array | None,
    start: int,
    length: int,
    settings: _Settings,
    temperature: float,
    seed: int,
) -> Generated:
    backend, xp = model.backend, model.backend.xp
    (batch, longest), program = prompt.shape, _program(model.net, settings)
    cache = model.net.cache(_floating(model), (batch, _rounded(longest + length)))
    cache = tree.map(lambda a: xp.asarray(a, copy=True), cache)  # no two in one memory
    steps = longest + length - start
    draws = None if settings.greedy else _draws(backend, seed, batch, steps)
    ended = xp.zeros((batch,), dtype=xp.bool, device=backend.device)
    count = xp.zeros((batch,), dtype=xp.int32, device=backend.device)
    given, written, all_sound = prompt[:, :start], [prompt[:, :start]], None
    for step in range(steps):
        place = start + step
        known = place < longest and valid is not None
        forced = (prompt[:, place], valid[:, place]) if known and valid is not None else None
        draw = None if draws is None else draws[:, step]
        numbers = (max(temperature, _COLDEST), float(length))
        out = program(model.params, model.state, cache, given, draw, forced, ended, count, *numbers)
        cache, given, ended, count, sound = out
        all_sound = sound if all_sound is None else xp.logical_and(all_sound, sound)
        if step == 0:
            _require_sound(model, sound, prompt[:, :start], None)
        written.append(given)
        if settings.stop is not None and backend.to_host(xp.all(ended)):
            break
    _require_sound(model, all_sound, prompt, valid)
    ids = xp.concat(written, axis=1)
    whole = longest + length
    if ids.shape[1] < whole:
        shape = (batch, whole - ids.shape[1])
        rest = xp.full(shape, settings.padding, dtype=xp.int32, device=backend.device)
        ids = xp.concat([ids, rest], axis=1)
    own = longest if valid is None else xp.sum(xp.astype(valid, xp.int32), axis=1, dtype=xp.int32)
    return Generated(ids, count + own)


def _require_sound(model: Model, sound: Array, prompt: Array, valid: Array | None) -> None:
    """InputError if scores were not finite: that of a layer which does not know an id, if so."""
    if not model.backend.to_host(sound):
        xp, floats = model.backend.xp, _floating(model)
        ids = prompt if valid is None else xp.where(valid, prompt, prompt[:, :1])
        cache = model.net.cache(floats, (ids.shape[0], _rounded(int(ids.shape[1]))))
        run(model.net, model.params, model.state, ids, cache)  # as it is, so that layers can look
        raise InputError(
            "generate: expected scores that are numbers, got NaN or infinity as the largest. To "
            "fix it: give ids that the network knows, and a model whose parameters are finite"
        )


def _floating(model: Model) -> Array:
    """An array of the dtype and device that a cache is to have."""
    xp = model.backend.xp
    for array in tree.leaves(model.params):
        if xp.isdtype(array.dtype, "real floating"):
            return array
    return xp.zeros((1,), dtype=model.backend.default_float, device=model.backend.device)


def _program(net: Any, settings: _Settings) -> Callable[..., Any]:
    try:
        return _kept_program(net, settings)
    except TypeError:  # a network that has no hash
        return _kept_program.__wrapped__(net, settings)


@lru_cache(_PROGRAMS)
def _kept_program(net: Any, settings: _Settings) -> Callable[..., Any]:
    """One step: from ids and a cache to the next ids, as a program."""

    def advance(
        params: Any, state: Any, cache: Any, ids: Array, draw: Array | None, forced: Any,
        ended: Array, count: Array, temperature: Array, length: Array,
    ) -> Any:  # fmt: skip
        scores, cache = _last_scores(run(net, params, state, ids, cache).output, ids)
        xp = namespace(scores)
        top = xp.max(scores, axis=-1)  # NaN if any is
        sound = xp.all(xp.logical_or(xp.isfinite(top), ended))  # padding may be no id it knows
        chosen = _chosen(scores, draw, temperature, settings)
        new = xp.logical_not(ended)
        if forced is not None:
            token, is_forced = forced
            chosen = xp.where(is_forced, token, chosen)
            new = xp.logical_and(new, xp.logical_not(is_forced))
        if settings.ragged or settings.stop is not None:
            chosen = xp.where(ended, xp.full_like(chosen, settings.padding), chosen)
        count = count + xp.astype(new, xp.int32)
        if settings.stop is not None:
            ended = xp.logical_or(ended, xp.logical_and(new, chosen == settings.stop))
        if settings.ragged:
            ended = xp.logical_or(ended, xp.astype(count, scores.dtype) >= length)
        return cache, xp.expand_dims(chosen, axis=1), ended, count, sound

    return compiler.compile(advance, donate_argnums=(2,))


def _last_scores(output: Any, ids: Array) -> tuple[Array, Any]:
    """The scores after the last step, (batch, tokens), of 32 bits or more, and the cache."""
    pair = isinstance(output, tuple | list) and len(output) == 2
    scores: Any
    scores, cache = output if pair else (None, None)
    shape = tuple(getattr(scores, "shape", ()))
    if len(shape) != 3 or shape[:2] != tuple(ids.shape) or not shape[2]:
        raise ShapeError(
            "generate: expected a network that gives a pair, scores of (batch, time, tokens), here "
            f"{(*ids.shape, 'tokens')}, and the new cache, got "
            + (f"scores of {shape}" if pair else "no pair")
            + ". To fix it: let its forward return (scores, cache)"
        )
    xp, scores = namespace(scores), scores[:, -1, :]
    return scores if xp.finfo(scores.dtype).bits >= 32 else xp.astype(scores, xp.float32), cache


def _chosen(scores: Array, draw: Array | None, temperature: Array, settings: _Settings) -> Array:
    """(batch,) int32: the likeliest tokens, or those that uniform numbers of [0, 1) draw."""
    xp = namespace(scores)
    if draw is None:
        return xp.astype(xp.argmax(scores, axis=-1), xp.int32)
    # The largest is 0, whatever it is divided by.
    scores = (scores - xp.max(scores, axis=-1, keepdims=True)) / temperature
    tokens = int(scores.shape[-1])
    if settings.top_k is not None and settings.top_k < tokens:
        least = xp.sort(scores, axis=-1)[:, tokens - settings.top_k, None]
        scores = xp.where(scores < least, float("-inf"), scores)
    powers = xp.exp(scores)
    sums = xp.cumulative_sum(powers, axis=-1)
    # By a little less than drawn: rounded up to the sum, it would be beyond the last token.
    place = xp.expand_dims(xp.astype(draw, sums.dtype) * (1.0 - 2.0**-22), axis=1) * sums[:, -1:]
    return xp.sum(xp.astype(sums <= place, xp.int32), axis=-1, dtype=xp.int32)


def _draws(backend: Backend, seed: int, batch: int, steps: int) -> Array:
    """(batch, steps) uniform numbers, of a row and a step the same however many there are."""
    key, blocks = random.key(seed, backend), range(-(-steps // _BLOCK))
    parts = [
        random.uniform(random.fold_in(key, block), (batch, _BLOCK), "float32", first_row=0)
        for block in blocks
    ]
    return backend.xp.concat(parts, axis=1)


def _rounded(length: int) -> int:
    """The length of a cache: a power of two, so that few programs serve all."""
    return max(64, 1 << (length - 1).bit_length())


def _prompt(backend: Backend, prompt: Any, lengths: Any) -> tuple[Array, Array | None, int]:
    """The prompts, booleans of their own ids, and the length of the shortest."""
    xp = backend.xp
    ids = backend.asarray(prompt)
    if ids.ndim != 2 or 0 in ids.shape or not xp.isdtype(ids.dtype, "integral"):
        raise ShapeError(
            f"generate: expected a prompt of shape (batch, time), integers, one step or more, got "
            f"{tuple(ids.shape)} of {ids.dtype}. To fix it: prompt[None, :] is a batch of one"
        )
    far = xp.logical_or(ids < -_LAST, ids > _LAST) if xp.iinfo(ids.dtype).bits > 32 else None
    ids = xp.astype(ids, xp.int32)
    if far is not None:  # what does not fit would be another id: one that no network knows
        ids = xp.where(far, xp.full_like(ids, -1), ids)
    if lengths is None:
        return ids, None, int(ids.shape[1])
    own = backend.asarray(lengths)
    valid = valid_steps("generate", own, ids.shape[0], ids.shape[1])
    shortest = int(backend.to_host(xp.min(xp.astype(own, xp.int32))))
    if shortest < 1:
        raise InputError(
            "generate: expected prompts of one id or more, got a length of 0. To fix it: begin "
            "each with a token that stands for the beginning"
        )
    return ids, valid, shortest


def _check(model: Model, temperature: float) -> None:
    net = getattr(model, "net", None)
    if not callable(getattr(net, "cache", None)):
        raise TypeError(
            "generate: expected a model of a network with a method cache(like, shape), got "
            f"{model!r}. To fix it: write a layer with one, whose forward takes ids and the cache "
            "and gives the scores and the new cache"
        )
    try:
        sound = 0.0 <= float(temperature) < float("inf")
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(
            f"generate: expected a finite temperature of 0 or more, got {temperature!r}. To fix "
            "it: 1.0 draws as the scores say, 0.0 takes the likeliest"
        )


def _whole(name: str, value: Any, least: int | None = None) -> int:
    """An integer of Python's; an error if it is none, or beyond what ids are."""
    try:
        number = index(value) if type(value) is not bool else None
    except TypeError:
        number = None
    if number is None or (least is not None and not least <= number <= _LAST):
        bounds = "" if least is None else f" from {least} to {_LAST}"
        raise ValueError(
            f"generate: expected {name} to be an integer{bounds}, got {value!r}. To fix it: give "
            "a whole number"
        )
    return number


__all__ = ["Generated", "generate"]
