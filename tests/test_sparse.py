"""Sparse matrices stay sparse in products on NumPy, and are dense arrays to everything else."""

import numpy as np
import pytest

import backends
from backends.sparse import SparseMatrix
from tests.checks import assert_close
from tinynn import fit
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Linear, Sequential

scipy_sparse = pytest.importorskip("scipy.sparse")

DENSE = np.where(np.random.default_rng(0).random((37, 12)) < 0.2, 1.5, 0.0).astype("float32")
TARGET = (DENSE.sum(axis=1) > 3.0).astype(int)


@pytest.fixture
def sparse(monkeypatch):
    """A matrix that fails where it is made dense."""

    def refused(self):
        raise AssertionError("it was made dense")

    monkeypatch.setattr(SparseMatrix, "dense", property(refused))
    return SparseMatrix(scipy_sparse.csr_array(DENSE))


def test_products_cuts_and_transposes_stay_sparse(sparse):
    xp, w = backends.of(sparse).xp, np.ones((12, 3), np.float32)
    out = np.empty((37, 3), np.float32)
    np.testing.assert_allclose(xp.matmul(sparse, w), DENSE @ w)
    assert np.matmul(sparse, w, out=out) is out
    np.testing.assert_allclose(out, DENSE @ w)
    back = xp.matmul(xp.matrix_transpose(sparse), out)
    np.testing.assert_allclose(back, DENSE.T @ out, rtol=1e-6)
    batches = list(xp.reshape(sparse[:36, ...], (3, 12, 12)))
    assert [batch.shape for batch in batches] == [(12, 12)] * 3
    np.testing.assert_array_equal(batches[1].matrix.toarray(), DENSE[12:24])


def test_anything_else_meets_the_dense_array():
    x = SparseMatrix(scipy_sparse.csr_array(DENSE))
    for found, expected in [
        (x * 2 - 1, DENSE * 2 - 1),
        (x[3, :], DENSE[3, :]),
        (np.concatenate([x, x]), np.concatenate([DENSE, DENSE])),
        (np.sum(x, axis=0), DENSE.sum(axis=0)),
        (DENSE.T @ x, DENSE.T @ DENSE),
        (x.mT @ x, DENSE.T @ DENSE),
        (x.max(axis=1), DENSE.max(axis=1)),
        (np.asarray(x, np.float64), DENSE.astype(np.float64)),
    ]:
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert backends.is_array(x)
    assert backends.of(x) == backends.get("numpy")
    assert backends.get("numpy").to_host(x).tolist() == DENSE.tolist()


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_training_makes_no_batch_dense(engine, sparse):
    net = Sequential(Linear(5), relu, Linear(2))
    given = {"epochs": 3, "batch_size": 10, "engine": engine, "seed": 1}
    model = fit(net, sparse.matrix, TARGET, **given)  # for the fixture: no dense batch
    dense = fit(net, DENSE, TARGET, **given)
    np.testing.assert_allclose(model.history["loss"], dense.history["loss"], rtol=1e-5)


@pytest.mark.reads_scalars
def test_a_first_layer_of_another_kind_sees_dense_batches(backend):
    net = Sequential(BatchNorm(), Linear(2))
    given = {"epochs": 3, "batch_size": 10, "seed": 1, "backend": backend}
    model = fit(net, scipy_sparse.csr_array(DENSE), TARGET, **given)
    dense = fit(net, backend.asarray(DENSE), TARGET, **given)
    assert_close(model.params["1"]["weight"], backend.to_host(dense.params["1"]["weight"]), backend)
