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
    vector = np.arange(12.0)
    np.testing.assert_allclose(sparse @ vector, DENSE @ vector)
    np.testing.assert_allclose(vector @ sparse.T, vector @ DENSE.T)
    np.testing.assert_allclose(w.T @ sparse.T, w.T @ DENSE.T)
    np.testing.assert_allclose(sparse.mT @ sparse, DENSE.T @ DENSE)
    np.testing.assert_allclose(sparse @ w.tolist(), DENSE @ w)
    assert sparse.size == DENSE.size
    assert not hasattr(sparse, "layout")
    with pytest.raises(ValueError, match=r"`out` of shape \(37, 1\), got \(37, 3\)"):
        np.matmul(sparse, w[:, :1], out=out)
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
        (x[:3, np.asarray([1, 2])], DENSE[:3, [1, 2]]),
        (np.reshape(x, -1), DENSE.reshape(-1)),
        (np.dot(x, 2.0), DENSE * 2),
        (x.max(axis=1), DENSE.max(axis=1)),
        (np.asarray(x, np.float64), DENSE.astype(np.float64)),
    ]:
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert backends.is_array(x)
    assert backends.of(x) == backends.get("numpy")
    assert backends.get("numpy").to_host(x).tolist() == DENSE.tolist()


def test_its_opposite_and_it_beside_a_column_are_sparse():
    x, ones = SparseMatrix(scipy_sparse.csr_array(DENSE)), np.ones((len(DENSE), 1), DENSE.dtype)
    for found, expected in [
        (-x, -DENSE),
        (np.concat([x, ones], axis=1), np.concat([DENSE, ones], axis=1)),
        (np.concat([ones, -x], axis=1), np.concat([ones, -DENSE], axis=1)),
    ]:
        assert type(found) is SparseMatrix
        assert found.dtype == DENSE.dtype
        np.testing.assert_array_equal(found.dense, expected)
    with pytest.raises(ValueError, match="dimension"):
        np.concat([x, ones[:, 0]], axis=1)


def test_nothing_writes_to_it():
    x, expected = SparseMatrix(scipy_sparse.csr_array(DENSE)), DENSE.copy()
    with pytest.raises(TypeError, match=r"add: expected an array to write to, got a sparse"):
        x += 1.0
    with pytest.raises(TypeError, match="matmul: expected an array to write to"):
        np.matmul(x, np.eye(12), out=x)
    with pytest.raises(ValueError, match="read-only"):
        np.copyto(x, 1.0)
    with pytest.raises(ValueError, match="cannot reshape"):
        np.reshape(x, (2, 12, 12))  # of 37 rows
    np.testing.assert_array_equal(x, expected)
    assert np.matmul(x, np.eye(12), dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize("engine", ["eager", "calls"])
def test_training_makes_no_batch_dense(engine, sparse):
    net = Sequential(Linear(5), relu, Linear(2))
    given = {"epochs": 3, "batch_size": 10, "engine": engine, "seed": 1}
    model = fit(net, sparse.matrix, TARGET, **given)  # for the fixture: no dense batch
    dense = fit(net, DENSE, TARGET, **given)
    np.testing.assert_allclose(model.history["loss"], dense.history["loss"], rtol=1e-5)


def test_no_rows_are_an_error_as_of_dense_arrays():
    x = scipy_sparse.csr_array(DENSE)
    model = fit(Linear(2), x, TARGET, epochs=1)
    for empty in (x[:0], DENSE[:0]):
        with pytest.raises(ValueError, match=r"predict: X: expected at least one sample and one"):
            model.predict(empty)
    with pytest.raises(ValueError, match=r"fit: X: expected at least one sample .* \(0, 12\)"):
        fit(Linear(2), x[:0], TARGET[:0])


@pytest.mark.reads_scalars
def test_a_first_layer_of_another_kind_sees_dense_batches(backend):
    net = Sequential(BatchNorm(), Linear(2))
    given = {"epochs": 3, "batch_size": 10, "seed": 1, "backend": backend}
    model = fit(net, scipy_sparse.csr_array(DENSE), TARGET, **given)
    dense = fit(net, backend.asarray(DENSE), TARGET, **given)
    assert_close(model.params["1"]["weight"], backend.to_host(dense.params["1"]["weight"]), backend)
