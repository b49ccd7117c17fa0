"""Estimators for scikit-learn: a network as its classifier or its regressor.

They take the parameters of scikit-learn's `MLPClassifier` and `MLPRegressor` under their own names,
and what those lack: any layers, losses and optimizers of tinynn, class weights, and arrays of any
library that scikit-learn dispatches on. docs/scikit-learn.md has examples.
"""

try:
    import sklearn  # noqa: F401 - what everything here derives from
except ImportError as error:
    raise ImportError(
        "tinynn.sklearn: expected scikit-learn, which is not installed. To fix it: "
        'pip install "tinynn-xp[sklearn]"'
    ) from error

from tinynn.sklearn.classifier import NetworkClassifier
from tinynn.sklearn.converter import register_skl2onnx
from tinynn.sklearn.regressor import NetworkRegressor

__all__ = ["NetworkClassifier", "NetworkRegressor", "register_skl2onnx"]
