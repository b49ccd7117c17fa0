"""Raw tables: their conversion to numbers, and predictions in the table's own terms.

`fit_table` trains on a data frame of any library (through narwhals) and returns a `Model` that
carries its `TablePreparation`: `predict`, `predict_proba` and `evaluate` take raw tables, and so
does the model that `tinynn.load` reads from its file.
"""

from collections.abc import Mapping
from typing import Any

from tinynn.tabular.fitting import TrainingDiverged, fit_table
from tinynn.tabular.parts import Parts
from tinynn.tabular.preparation import TablePreparation
from tinynn.tabular.table import Table, TableError

__all__ = [
    "Parts",
    "Table",
    "TableError",
    "TablePreparation",
    "TrainingDiverged",
    "fit_table",
    "from_config",
]


def from_config(config: Mapping[str, Any]) -> TablePreparation:
    """Build the preparation that `TablePreparation.to_config` described.

    Parameters
    ----------
    config
        As that method gives it.

    Raises
    ------
    ValueError
        A description of another kind or format, or one that is not whole.
    """
    return TablePreparation.from_config(config)
