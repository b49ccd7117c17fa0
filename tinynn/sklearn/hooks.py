"""scikit-learn's own callbacks (`ProgressBar`, `ScoringMonitor`), as a callback of a run.

scikit-learn has them from 1.9 on; before, estimators have no `set_callbacks`. Each epoch is a task
under that of `fit`, as scikit-learn's developers describe it in SLEP023:
<https://github.com/scikit-learn/enhancement_proposals>.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tinynn.training import Run

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """In place of scikit-learn's, which comes with 1.9."""

    def with_callbacks(method: Any) -> Any:
        """The method itself."""
        return method


__all__ = ["CallbackSupportMixin", "Hooks", "fitting", "with_callbacks"]


@dataclass
class Hooks:
    """Call the hooks of scikit-learn's callbacks at the start and the end of each epoch.

    It is the last callback of a run, so that it knows whether there will be another epoch.

    Parameters
    ----------
    estimator : the estimator that is fitted
    context : the `CallbackContext` of its `fit`
    given : X, y and metadata, as the hooks take them
    fitted : makes, of a run, the attributes of an estimator whose training ends here

    """

    estimator: Any
    context: Any
    given: dict[str, Any]
    fitted: Any
    _epoch: Any = field(default=None, init=False)

    def start(self, run: Run) -> None:
        """Begin the first epoch."""
        self._epoch = self.context.subcontext(task_name="epoch")
        self._call("call_on_fit_task_begin", run)

    def __call__(self, run: Run) -> None:
        """End this epoch, and begin the next one unless the run ends here."""
        if self._call("call_on_fit_task_end", run):
            run.stop()
        if not run.stopped and run.epoch < run.epochs:
            self.start(run)

    def _call(self, hook: str, run: Run) -> Any:
        return getattr(self._epoch, hook)(
            estimator=self.estimator,
            reconstruction_attributes=lambda: self.fitted(run),
            **self.given,
        )


@contextmanager
def fitting(
    estimator: Any, epochs: int, X: Any, y: Any, sample_weight: Any
) -> Iterator[Callable[[Any], Hooks] | None]:
    """Tell scikit-learn's callbacks that `fit` begins and, if it succeeds, that it has ended.

    Gives what makes the callback of the run from `fitted`; None for an estimator without callbacks.
    """
    if not hasattr(estimator, "_skl_callbacks"):
        yield None
        return
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    given = {"X": X, "y": y, "metadata": metadata}  # as they came, with the names of columns
    context = estimator._init_callback_context(max_subtasks=epochs)
    context.call_on_fit_task_begin(estimator=estimator, **given)
    yield partial(Hooks, estimator, context, given)
    context.call_on_fit_task_end(estimator=estimator, reconstruction_attributes={}, **given)
