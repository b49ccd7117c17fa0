"""What a backend advises on the machine it runs on."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import backends
from backends import openblas


def test_advice_on_openblas(monkeypatch: pytest.MonkeyPatch) -> None:
    for core, wide, advised in (
        ("Haswell", True, True),
        ("Zen", True, True),
        ("SkylakeX", True, False),
        ("Haswell", False, False),
        ("", True, False),
    ):
        monkeypatch.setattr(openblas, "_core", lambda core=core: core)
        monkeypatch.setattr(openblas, "_has_avx512", lambda wide=wide: wide)
        advice = backends.get("numpy").advice()
        assert (advice is not None) == advised
        if advice is not None:
            assert f"{core} kernels" in advice.text
            assert "set OPENBLAS_CORETYPE=SkylakeX before Python starts" in advice.text
            assert advice.environment == {"OPENBLAS_CORETYPE": "SkylakeX"}


def test_numpys_own_openblas_is_asked_where_scipy_brings_another() -> None:
    pytest.importorskip("scipy", reason="SciPy is not installed")
    asking = "import numpy, backends.openblas as openblas; print(openblas._core())"
    alone, beside = (
        subprocess.check_output([sys.executable, "-c", first + asking], text=True)
        for first in ("", "import scipy.linalg; ")
    )
    assert beside == alone


def test_the_openblas_of_this_process_is_found_where_there_is_one() -> None:
    config: Any = np.show_config(mode="dicts")
    there = "openblas" in config["Build Dependencies"]["blas"]["name"] and sys.platform == "linux"
    assert openblas._core().isalnum() == there
    assert (openblas.product("float64") is not None) == there
    assert openblas.product("int64") is None
