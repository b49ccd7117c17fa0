"""The four systems this project grew from, digit for digit on every backend with float64.

And the other examples: that they run, and that what they show is so.
"""

import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import backends
from tests.checks import assert_close
from tests.engines import compiled_by
from tests.onnx_files import session
from tinynn.data import pad_sequences
from tinynn.functional import sigmoid

EXAMPLES = Path(__file__).parents[1] / "examples"
# For all the steps of the first two, the others take most of a minute, each call by itself: they
# have NumPy's digits after fewer. tests/test_tutorial.py has all steps on JAX and CuPy as well.
STEPS = {"numpy": 10_000, "torch": 10_000}
in_float64 = pytest.mark.usefixtures("float64")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digits(array: np.ndarray) -> list[str]:
    return [f"{x:.8f}" for x in array.ravel()]


@in_float64
def test_tiny_nn(backend: backends.Backend) -> None:
    main, steps = load("tiny_nn").main, STEPS.get(backend.name, 1001)
    learned, error, xor, hopeless = main(backend, steps)
    assert error == 0.49963945276141286
    if steps < 10_000:
        wanted, _, *others = main("numpy", steps)
        assert digits(learned) == digits(wanted)
        assert [digits(xor), digits(hopeless)] == list(map(digits, others))
        return
    assert digits(learned) == ["0.00966808", "0.00786589", "0.99358863", "0.99211705"]
    assert digits(xor) == ["0.00706947", "0.99217766", "0.99074812", "0.01002659"]
    np.testing.assert_allclose(hopeless, 0.5, atol=0.05)


@in_float64
def test_really_small_network(backend: backends.Backend) -> None:
    steps = STEPS.get(backend.name, 1001)
    errors = load("really_small_network").main(backend, steps)
    assert len(errors) == -(-steps // 1000)
    published = [
        "0.498143063951", "0.0447576809491", "0.0273990949977", "0.0212823881636",
        "0.017947679405", "0.0157831271653", "0.0142368549605", "0.0130629438924",
        "0.0121333462089", "0.0113740710438",
    ]  # fmt: skip
    assert [f"{error:.12g}" for error in errors] == published[: len(errors)]


@in_float64
def test_simplest_network(backend: backends.Backend) -> None:
    losses = load("simplest_network").main(backend)
    assert len(losses) == 300
    shown = [losses[0], losses[1], losses[-1]]
    np.testing.assert_allclose(
        shown, [3.579065898513591, 3.5590508354141237, 1.1829026147971158], rtol=2e-15
    )


@in_float64
def test_from_scratch_from_every_seed(backend: backends.Backend) -> None:
    worst = load("from_scratch").main(backend)
    assert worst.shape == (200,)
    assert np.max(worst) < 0.1
    assert f"{np.median(worst):.4f}" == "0.0493"


@in_float64
def test_from_scratch_gives_its_printed_layer_back(backend: backends.Backend) -> None:
    """Weights recovered from the printed hidden layer and outputs reproduce all printed digits."""
    printed = np.asarray([
        [0.5, 0.99850478, 0.04275251, 0.96755895],
        [0.5, 0.99557225, 0.99527655, 0.99997889],
        [0.5, 0.04590558, 0.99821777, 0.96421991],
        [0.5, 0.32933937, 0.4521477, 0.28839922],
    ])  # fmt: skip
    outputs = np.asarray([0.03861796, 0.96425342, 0.96514691, 0.03352662])
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    hosts = [
        np.stack([logit(printed[:, 2]), logit(printed[:, 1])]),
        np.linalg.solve(printed.T, logit(outputs))[:, None],
    ]
    module = load("from_scratch")
    tables: list[Any] = [backend.asarray(t, dtype="float64") for t in (module.X, module.Y)]
    network = module.NeuralNetwork(*tables, *[backend.asarray(host) for host in hosts])
    found = backend.to_host(network.feedforward())
    np.testing.assert_allclose(backend.to_host(network.hidden).T, printed, atol=2e-7)
    np.testing.assert_allclose(found.ravel(), outputs, atol=2e-7)
    module.assert_same_gradient(network)
    assert backends.of(sigmoid(network.hidden)) == backend


# On JAX a step is compiled for each width, on dpnp each call takes long; tests/test_many.py trains
# few networks, for few steps, on both.
@pytest.mark.only("numpy", "torch", "array_api_strict", "cupy")
@pytest.mark.reads_scalars  # the check of the targets
def test_many_networks_show_that_xor_needs_a_hidden_layer(backend: backends.Backend) -> None:
    shares = load("many_networks").main(backend, networks=40, widths=(1, 5), steps=100)
    assert shares[1] == 0.0
    assert shares[5] > 0.9


def test_many_networks_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra plot, is not installed")
    load("many_networks").draw({1: 0.0, 2: 0.5}, tmp_path / "widths.svg")
    assert "networks that learned XOR" in (tmp_path / "widths.svg").read_text()


# XLA compiles this step for 20 seconds, and dpnp takes 40 for all of them; both train a smaller
# network in tests/test_convolution.py.
@pytest.mark.only("numpy", "torch", "cupy")
@pytest.mark.reads_scalars
def test_a_convolutional_network_learns_digits(backend: backends.Backend, tmp_path: Path) -> None:
    """A run that was stopped is the whole one; on NumPy it is exported."""
    example, settings = load("digits_cnn"), {"seeds": 1, "rows": 400}
    whole, (share,) = example.main(backend, epochs=10, **settings)
    assert share > 0.8
    settings["checkpoint"] = tmp_path / "run"
    example.main(backend, epochs=1, **settings)
    model, _ = example.main(backend, epochs=3, resume=True, **settings)
    assert model.history["loss"] == whole.history["loss"][:3]
    if backend.name == "numpy":  # where the packages of ONNX are installed
        exported(model, np.ones((2, 8, 8, 1), "float32"), tmp_path)


# XLA compiles its step for most of a minute.
@pytest.mark.only("numpy", "torch", "array_api_strict", "cupy")
@pytest.mark.reads_scalars
def test_a_character_level_transformer_learns_and_writes(
    backend: backends.Backend, tmp_path: Path
) -> None:
    """Small; a run that was stopped is the whole one."""
    example, path = load("character_transformer"), tmp_path / "run.safetensors"
    # XLA compiles the step of every run anew, for seconds.
    engine = "eager" if backend.name == "array_api_strict" else compiled_by(backend)
    settings = {"size": 2600, "width": 8, "blocks": 1, "length": 5, "progress": False}
    settings["engine"] = engine
    example.main(backend, epochs=1, checkpoint=path, **settings)
    model, written = example.main(backend, epochs=2, checkpoint=path, resume=True, **settings)
    losses = model.history["loss"]
    assert losses[1] < losses[0]
    assert len(written) == len("The ") + 5
    if backend.repeat is None:
        whole, again = example.main(backend, epochs=2, **settings)
        assert (whole.history, again) == (model.history, written)


@pytest.mark.only("numpy")  # where the packages of ONNX are installed
def test_the_character_level_transformer_is_exported(
    backend: backends.Backend, tmp_path: Path
) -> None:
    example = load("character_transformer")
    settings = {"size": 2600, "width": 8, "blocks": 1, "length": 5, "progress": False}
    model, _ = example.main(backend, epochs=1, **settings)
    ids = np.arange(2 * example.LENGTH, dtype="int32").reshape(2, -1) % model.net.count
    model.to_onnx(tmp_path / "model.onnx", ids)
    (scores,) = session(tmp_path / "model.onnx").run(["output"], {"input": ids})
    assert_close(model.predict(ids), scores, backend, rtol=1e-3, atol=1e-4)


# XLA compiles a scan for seconds, and a step of dpnp's takes hundreds of NumPy's: one is enough.
# The buckets of languages are a program each, which XLA compiles for 23 seconds of processor time.
SLOW = ("jax", "dpnp")


def resumed(backend: backends.Backend, name: str, path: Path, **settings: Any) -> Any:
    """What the example gives after two epochs, and that a run that was stopped is the whole one."""
    example = load(name)
    eager = backend.name in ("array_api_strict", "dpnp")
    settings["engine"] = "eager" if eager else compiled_by(backend)
    example.main(backend, epochs=1, checkpoint=path, **settings)
    model, *shown = example.main(backend, epochs=2, checkpoint=path, resume=True, **settings)
    if backend.name not in SLOW:
        whole, *again = example.main(backend, epochs=2, **settings)
        assert (whole.history, again) == (model.history, shown)
    losses = model.history["loss"]
    assert losses[1] < losses[0]
    return model


@pytest.mark.reads_scalars
def test_examples_over_sequences_are_resumed(backend: backends.Backend, tmp_path: Path) -> None:
    """On NumPy they are what they show, and exported."""
    if backend.name in SLOW:
        resumed(backend, "parity", tmp_path / "parity", seed=0)
        return
    resumed(backend, "sunspots", tmp_path / "sunspots")
    if backend.name in ("numpy", "torch"):
        resumed(backend, "parity", tmp_path / "parity", seed=0)
        resumed(backend, "languages", tmp_path / "languages", rows=200)


@pytest.mark.only("numpy")
def test_sunspots_are_forecast_better_than_by_the_season(
    backend: backends.Backend, tmp_path: Path
) -> None:
    model, errors = load("sunspots").main(backend, epochs=30)
    found, *naive = errors.values()
    assert found < 0.7 * min(naive)
    _, before, _ = load("sunspots").windows()
    exported(model, before[:4, :, None].astype("float32") / 100, tmp_path)


@pytest.mark.only("numpy")
def test_a_hidden_state_keeps_the_parity(backend: backends.Backend, tmp_path: Path) -> None:
    example = load("parity")
    model, shares, sure = example.main(backend)
    assert shares == {8: 1.0, 100: 1.0}
    assert sure > 0.9
    x, _ = example.bits_and_parities(np.asarray([[0, 1, 1, 0, 1]]))
    exported(model, x.astype("float32"), tmp_path)


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_the_language_of_words_is_found(backend: backends.Backend, tmp_path: Path) -> None:
    example = load("languages")
    model, share = example.main(backend, epochs=6)
    assert share > 0.6, "one in six by chance"
    pair = pad_sequences([np.asarray(word, "int32") for word in example.words()[0][:3]])
    exported(model, pair, tmp_path)


def exported(model: Any, inputs: Any, folder: Path) -> None:
    """Assert that ONNX Runtime predicts the same."""
    path = folder / "model.onnx"
    model.to_onnx(path, inputs)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    runtime = session(path)
    names = [each.name for each in runtime.get_inputs()]
    (found,) = runtime.run(["output"], dict(zip(names, given, strict=True)))
    assert_close(model.predict(inputs), found, model.backend, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_the_script_takes_a_backend_and_says_what_is_wrong_with_it(
    name: str, backend: backends.Backend
) -> None:
    result = CliRunner().invoke(load(name).command, ["--backend", "nosuchlibrary"])
    assert isinstance(result.exception, backends.BackendUnavailable)
    assert "nosuchlibrary" in str(result.exception)


@pytest.mark.reads_scalars
@pytest.mark.only("numpy", "torch", "array_api_strict")
def test_heat(backend: backends.Backend) -> None:
    """The solution by separation of variables."""
    assert load("heat").main(backend, width=10, points=60, steps=30) < 0.02


@pytest.mark.reads_scalars
@pytest.mark.only("numpy", "torch")
def test_burgers(backend: backends.Backend) -> None:
    """The solution of Cole and Hopf, by a network as small as a test allows."""
    burgers = load("burgers")
    given = {"hidden": (8, 8), "points": 150, "near": 30, "stages": ((0.15, 20), (0.1, 20))}
    assert burgers.main(backend, **given) < 0.1


@pytest.mark.only("numpy")
def test_the_exact_solution_of_burgers_equation() -> None:
    """It satisfies the equation, by central differences, and the start."""
    exact, nu, h = load("burgers").exact, 0.1 / np.pi, 1e-3
    x, t = np.linspace(-0.9, 0.9, 7), np.full(7, 0.4)

    def u(a: float, b: float) -> Any:
        return exact(x + a, t + b, nu)

    u_t, u_x = (u(0, h) - u(0, -h)) / (2 * h), (u(h, 0) - u(-h, 0)) / (2 * h)
    u_xx = (u(h, 0) - 2 * u(0, 0) + u(-h, 0)) / h**2
    np.testing.assert_allclose(u_t + u(0, 0) * u_x, nu * u_xx, atol=1e-4)
    np.testing.assert_allclose(exact(x, np.full(7, 1e-6), nu), -np.sin(np.pi * x), atol=1e-4)


@pytest.mark.only("numpy")
def test_the_exact_solution_has_the_slope_that_is_published() -> None:
    """Basdevant and others 1986: at most 152.00516, at pi * t = 1.6037, for nu = 0.01 / pi."""
    exact, times = load("burgers").exact, np.linspace(1.60, 1.61, 201) / np.pi
    slopes = -exact(np.full(201, 1e-6), times, 0.01 / np.pi) / 1e-6
    assert f"{slopes.max():.5f}" == "152.00516"
    assert np.pi * times[slopes.argmax()] == pytest.approx(1.6037, abs=1e-4)


@pytest.mark.reads_scalars
@pytest.mark.only("numpy")
def test_pendulum(backend: backends.Backend) -> None:
    """Both reach the published losses; that with a Hamiltonian keeps the energy far better."""
    example = load("pendulum")
    found = example.main(backend, steps=30, starts=4, seconds=10.0)
    for name, (train, test, *_) in found.items():
        published = example.PUBLISHED[name]
        np.testing.assert_allclose((train, test), published[:2], rtol=0.15)
    assert found["Hamiltonian"][-1] < found["plain"][-1] / 5


@pytest.mark.only("numpy")
def test_the_data_of_the_pendulum_are_those_that_are_published() -> None:
    """1125 states to learn and as many to test, on orbits that keep their energy."""
    example = load("pendulum")
    states, motion = example.trajectories(noise=0.0)
    assert states.shape == motion.shape == (2250, 2)
    energies = example.energy(states).reshape(50, 45)
    np.testing.assert_allclose(energies, energies[:, :1] + np.zeros(45), rtol=1e-6)
    radii = np.linalg.norm(states.reshape(50, 45, 2)[:, 0, :], axis=-1)
    assert 1.3 <= radii.min() < radii.max() <= 2.3


@pytest.mark.reads_scalars
@pytest.mark.only("numpy")
def test_neural_ode(backend: backends.Backend) -> None:
    """The trajectory, whose states are of size 2, and what follows it."""
    inside, beyond, differs = load("neural_ode").main(backend, width=8, steps=25)
    assert max(inside, beyond) < 0.3
    assert differs < 1e-2


@pytest.mark.only("numpy")
def test_the_adjoint_is_the_gradient_through_the_steps(backend: backends.Backend) -> None:
    """But for the errors of the steps, which fall with the fourth power of their size."""
    example, differs = load("neural_ode"), []
    start, matrix = (backend.asarray(a, dtype="float64") for a in ([[2.0, 0.0]], example.A))
    motion = lambda matrix, y: (y * y * y) @ matrix  # noqa: E731
    for step, length in ((0.02, 10), (0.01, 20)):
        given = motion, matrix, start, step, length
        whole, adjoint = (
            backend.to_host(each(*given)) for each in (example.through_steps, example.by_adjoint)
        )
        differs.append(np.max(np.abs(adjoint - whole)) / np.max(np.abs(whole)))
    assert differs[1] < 1e-5
    assert 8 < differs[0] / differs[1] < 32


def test_four_networks_draw_their_boundaries() -> None:
    """They are those of the other examples, whose digits `fit` reaches."""
    example, shown = load("boundaries"), io.StringIO()
    found = example.main("numpy", shown, pictures=2, resolution=8, most=1500)
    tiny, _, simplest, scratch = (model for *_, model, _ in found)
    np.testing.assert_allclose(tiny.predict(example.T), example.XOR, atol=0.1)
    assert simplest.history["loss"][-1] == pytest.approx(1.1829026147971158, rel=1e-12)
    np.testing.assert_allclose(scratch.predict(example.T[:, :2]), example.XOR, atol=0.1)
    assert shown.getvalue().count("epoch 1500") == 3
    text = example.drawn(found)
    assert text.count('href="data:image/png;base64,iVBOR') == 4
