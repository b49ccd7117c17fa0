"""Raw tables: what their cells mean, and what a preparation makes of them."""

import json
import math
from datetime import UTC, date, datetime, timedelta

import narwhals as nw
import numpy as np
import polars
import pytest

import backends
from backends import random
from tests.tables import FRAMES, holes
from tinynn import tabular
from tinynn.tabular import Table, TableError, TablePreparation
from tinynn.tabular.columns import Category, Date, Number, phase
from tinynn.tabular.holdout import hold_out
from tinynn.tabular.targets import Classes

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
impute = pytest.importorskip("sklearn.impute")
preprocessing = pytest.importorskip("sklearn.preprocessing")


def prepared(columns, target="y", **options):
    """The preparation of a table whose target is made up if it has none."""
    rows = len(next(iter(columns.values())))
    columns = columns if target in columns else {**columns, target: ["a", "b"] * (rows // 2)}
    return TablePreparation.fit(columns, target, **options)


def only(preparation):
    (column,) = preparation.columns
    return column


# --- cells


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2.5", "-3e2", " .5 "], [1, 2.5, -300, 0.5]),
        (["1,5", "2,25", "-0,5", "3"], [1.5, 2.25, -0.5, 3]),
        (["1,000", "2,500.5", "1,234,567", "7"], [1000, 2500.5, 1234567, 7]),
        (["1.000,5", "2.500,25", "1,5", "7"], [1000.5, 2500.25, 1.5, 7]),
        (["1 000", "2 500,5", "1\u00a0234\u202f567", "7"], [1000, 2500.5, 1234567, 7]),
        (["5%", "12.5 %", "-1%", "0%"], [5, 12.5, -1, 0]),
        (["5,5%", "12,25%", "-1%", "0%"], [5.5, 12.25, -1, 0]),
        (["1", "", "NA", "4"], [1, None, None, 4]),
        (["1", None, "?", "3"], [1, None, None, 3]),
    ],
)
def test_numbers_in_text(frame, cells, values):
    table = FRAMES[frame]({"x": [*cells, cells[0], cells[0]], "y": ["a", "b"] * 3})
    number = only(TablePreparation.fit(table, "y", note=lambda _: None))
    assert isinstance(number, Number)
    expected = [math.nan if value is None else value for value in values]
    assert number.values(Table.of(table))[:4].tolist() == pytest.approx(expected, nan_ok=True)


def test_commas_that_may_mean_two_things_are_told_and_can_be_said():
    table = {"x": ["1,000", "2,500"], "y": ["a", "b"]}
    with pytest.warns(UserWarning, match=r"'x': its commas are read as between thousands.*decimal"):
        assert only(TablePreparation.fit(table, "y")).scale.mean == 1750
    assert only(TablePreparation.fit(table, "y", decimal=",")).scale.mean == 1.75
    told = []
    TablePreparation.fit({"x": ["0,125", "0,250"], "y": ["a", "b"]}, "y", note=told.append)
    assert not told, "0,125 is no thousand"


@pytest.mark.parametrize("frame", FRAMES)
def test_codes_are_no_numbers(frame):
    table = FRAMES[frame]({"zip": ["01067", "1067", None, "20095"], "y": ["a", "b", "a", "b"]})
    assert only(TablePreparation.fit(table, "y")) == Category(
        "zip", ("01067", "1067", "20095"), missing=True
    )


@pytest.mark.parametrize("cell", ["oops", "inf", "1_000", "1,5.0", "5%", "--1", "1e"])
def test_a_cell_that_is_no_number_among_numbers(cell):
    with pytest.raises(TableError, match=r"column 'x', row 1: expected a (finite )?number, got '?"):
        prepared({"x": ["1", cell, "3", "4"]})


def test_a_cell_that_is_no_number_among_decimal_commas():
    with pytest.raises(TableError, match=r"'x', row 3: expected a number, got 'oops'"):
        prepared({"x": ["1,5", "2,25", "-3,5", "oops"]})


def test_infinity_is_no_number():
    with pytest.raises(TableError, match=r"column 'x', row 2: expected a finite number, got -inf"):
        prepared({"x": [1.0, 2.0, -math.inf, 4.0]})


MOMENTS = [datetime(2024, 1, 31, 6, 30), datetime(2024, 12, 1), None, datetime(1969, 2, 28, 23)]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(
    ("written", "order"),
    [
        ("%Y-%m-%d %H:%M:%S", "ymd"),
        ("%Y-%m-%dT%H:%M", "ymd"),
        ("%Y/%m/%d %H:%M", "ymd"),
        ("%d.%m.%Y %H:%M", "dmy"),
        ("%d/%m/%Y %H:%M", "dmy"),
        ("%m/%d/%Y %H:%M", "mdy"),
        (None, "ymd"),
    ],
)
def test_dates(frame, written, order):
    cells = [m if m is None or written is None else m.strftime(written) for m in MOMENTS]
    table = FRAMES[frame]({"on": cells, "y": ["a", "b", "a", "b"]})
    column = only(TablePreparation.fit(table, "y"))
    expected = [
        math.nan if moment is None else moment.replace(tzinfo=UTC).timestamp() for moment in MOMENTS
    ]
    assert column.values(Table.of(table)).tolist() == pytest.approx(expected, nan_ok=True)
    assert isinstance(column, Date)
    assert (column.order, column.missing) == (order, True)
    assert column.cycles == ("year", "week", "day")


@pytest.mark.parametrize("frame", ["dict", "polars", "pyarrow"])
def test_days_by_type_are_those_of_their_text(frame):
    days = [date(2024, 1, 1) + timedelta(days=7 * week) for week in range(8)]
    kinds = ["a", "b"] * 4
    typed = TablePreparation.fit(FRAMES[frame]({"on": days, "y": kinds}), "y")
    text = TablePreparation.fit({"on": list(map(str, days)), "y": kinds}, "y")
    assert typed == text
    assert only(typed).cycles == ("year",), "all are Mondays, at midnight"


def test_cycles_of_dates():
    moments = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=6 * i) for i in range(8)]
    seconds = np.asarray([moment.timestamp() for moment in moments])
    assert phase(seconds, "day").tolist() == [0, 0.25, 0.5, 0.75] * 2
    assert (7 * phase(seconds, "week")).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]  # Monday is the first
    year = phase(
        np.asarray([datetime(y, 7, 1, tzinfo=UTC).timestamp() for y in (1999, 2024)]), "year"
    )
    assert year == pytest.approx(0.5, abs=0.01)
    preparation = prepared({"on": [*map(str, moments)]})
    X = preparation.transform({"on": [str(moments[1]), None]}, note=lambda _: None)
    scaled, *cycles = X[0].tolist()
    assert scaled == pytest.approx(-1.091, abs=1e-3)
    assert cycles[2:] == pytest.approx([0, 1, 1, 0], abs=1e-6)  # week, day
    assert X[1].tolist() == pytest.approx([0, *[0] * 6], abs=1e-6)  # the median, no cycles


def test_dates_that_may_mean_two_things_are_asked_for():
    table = {"on": ["01/02/2024", "03/04/2024"], "y": ["a", "b"]}
    with pytest.raises(
        TableError, match=r"'on': expected dates of one meaning.*dates=.*--date on="
    ):
        TablePreparation.fit(table, "y")
    first = [
        only(TablePreparation.fit(table, "y", dates={"on": order})).values(Table.of(table))[0]
        for order in ("dmy", "mdy")
    ]
    assert [datetime.fromtimestamp(s, UTC).date().isoformat() for s in first] == [
        "2024-02-01",
        "2024-01-02",
    ]
    with pytest.raises(TableError, match=r"row 1: expected a date such as 2024-12-31, got '2024-1"):
        prepared({"on": ["2024-01-01", "2024-13-01", "2024-01-02", "2024-01-03"]})


# --- what a preparation does


def test_numbers_and_holes_as_scikit_learn_has_them():
    draw = np.random.default_rng(0)
    values = draw.normal(3, 10, (50, 1))
    values[[3, 17, 40]] = np.nan
    imputer = impute.SimpleImputer(strategy="median", add_indicator=True)
    filled = imputer.fit_transform(values)
    scaler = preprocessing.StandardScaler().fit(values)  # of the cells that are there
    expected = np.column_stack([scaler.transform(filled[:, :1]), filled[:, 1]])
    preparation = prepared({"x": values[:, 0]})
    assert preparation.inputs == ("x", "x?")
    np.testing.assert_allclose(preparation.transform({"x": values[:, 0]}), expected, rtol=1e-6)


@pytest.mark.parametrize("frame", FRAMES)
def test_categories_and_unknown_ones_as_scikit_learn_has_them(frame):
    colours = ["red", "green", "red", "blue"] * 3
    preparation = prepared({"colour": colours})
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encoder.fit(np.asarray(colours)[:, None])
    new = ["blue", "pink", "red", "pink", None]
    expected = encoder.transform(np.asarray(new, dtype=object)[:, None])
    with pytest.warns(UserWarning, match="cells") as said:
        X = preparation.transform(FRAMES[frame]({"colour": new}))
    assert X.tolist() == expected.tolist()
    first, second = (str(each.message) for each in said)
    assert "'colour': 2 of 5 cells hold 'pink', which training did not meet" in first
    assert "'colour': 1 of 5 cells are missing" in second
    holes = prepared({"colour": [*colours[:-2], None, ""]})
    assert holes.inputs == ("colour=blue", "colour=green", "colour=red", "colour?")
    with pytest.warns(UserWarning, match="pink"):
        X = holes.transform(FRAMES[frame]({"colour": new}))
    assert X[:, 3].tolist() == [0, 1, 0, 1, 1]


def test_booleans_may_come_as_text():
    preparation = prepared({"on": [True, False, True, True]})
    expected = [[0, 1], [1, 0], [0, 0]]
    with pytest.warns(UserWarning, match="'maybe'"):
        assert preparation.transform({"on": ["True", "false", "maybe"]}).tolist() == expected


def test_a_hole_that_training_did_not_have_is_counted():
    with pytest.warns(UserWarning, match=r"'x': 1 of 2 cells are missing.*the median 2\.5"):
        X = prepared({"x": [1.0, 2.0, 3.0, 10.0]}).transform({"x": [4.0, None]})
    assert X[1, 0] == pytest.approx((2.5 - 4) / np.std([1, 2, 3, 10]), rel=1e-6)


def test_what_is_left_out_and_why():
    rows = 60
    preparation = prepared(
        {
            "": [*range(rows)],
            "Unnamed: 0": [*map(str, range(rows))],
            "x": [*range(rows)],
            "unit": ["cm"] * rows,
            "zero": [0.0] * rows,
            "none": [None] * rows,
            "name": [f"person {i}" for i in range(rows)],
            "gone": [*range(rows)],
        },
        drop=["gone"],
    )
    assert only(preparation).name == "x"
    assert {name: why.partition(" in ")[0] for name, why in preparation.left_out.items()} == {
        "": "it is the index of a data frame",
        "Unnamed: 0": "it is the index of a data frame",
        "gone": "it is to be left out",
        "unit": "it never changes",
        "zero": "it never changes",
        "none": "it never changes",
        "name": "it has 60 different texts",
    }
    kept = prepared({"name": [f"person {i}" for i in range(rows)]}, categories=["name"])
    assert kept.width == rows


def test_a_column_without_a_name_has_to_be_an_index():
    with pytest.raises(TableError, match="column 1 has no name"):
        prepared({"": [0.5, 1.5], "x": [1, 2]})
    # An index is what pandas writes, and what it reads back.
    frame = pandas.DataFrame({"x": [1.0, 5.0, 2.0, 7.0], "y": ["a", "b", "a", "b"]})
    text = frame.to_csv()
    assert only(TablePreparation.fit(polars.read_csv(text.encode()), "y")).name == "x"


def test_the_preparation_goes_through_json():
    for target in ("kind", "size"):
        preparation = TablePreparation.fit(holes(), target)
        config = json.loads(json.dumps(preparation.to_config()))
        assert tabular.from_config(config) == preparation
    for change in (
        {"format": 99},
        {"kind": "image"},
        {"columns": [{"kind": "?"}]},
        {"columns": [config["target"]]},
        {"columns": 3},
        {"columns": [{**config["columns"][0], "decimal": "x"}]},
        {"columns": [{**config["columns"][0], "scale": {"mean": 0, "deviation": 0, "median": 0}}]},
        {"columns": [{**config["columns"][0], "more": 1}]},
        {"activation": "eval"},
        {"target": None},
    ):
        with pytest.raises(ValueError, match="expected the description of a preparation"):
            tabular.from_config({**config, **change})
    with pytest.raises(ValueError, match="expected the description"):
        tabular.from_config({})


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"x": [1, 2]}, {"target": "z"}, "no column 'z'; it has 'y', 'x'"),
        ({"x": [1, 2], "y": ["a", "a"]}, {}, "'y': expected a target that varies"),
        ({"x": [1, 2], "y": [3.5, 3.5]}, {}, "'y': expected a target that varies"),
        ({"y": ["a", "b"]}, {}, "none that varies"),
        ({"x": [1, 1]}, {}, "none that varies"),
        ({"x": [1, 2]}, {"drop": ["z"]}, "no column 'z'"),
        ({"x": [1, 2]}, {"categories": ["z"]}, "no column 'z'"),
        ({"x": [1, 2]}, {"drop": ["y"]}, "'y': expected a target, got it in drop"),
        ({"x": [1, 2]}, {"classes": False}, "'y', row 0: expected a number, got 'a'"),
        ({"x": [1, 2], "y": [1, 1.5]}, {"classes": True}, "row 1: expected a whole number as a cl"),
        (
            {"x": [-1.7e308, 1.7e308, 1.7e308], "y": [1, 2, 3]},
            {},
            "'x': expected numbers whose deviations",
        ),
        ({"x": [[1], [2]]}, {}, "'x': expected numbers, texts or dates, got List"),
        (
            {"x": [1, 2], "y": [date(2024, 1, 1), date(2024, 1, 2)]},
            {},
            "classes or numbers, got dat",
        ),
    ],
)
def test_what_cannot_be_learned(columns, options, words):
    columns = {"y": ["a", "b"], **columns}
    with pytest.raises(TableError, match=words):
        TablePreparation.fit(polars.DataFrame(columns, strict=False), **{"target": "y", **options})


@pytest.mark.parametrize(
    ("cells", "kind", "labels"),
    [
        (["a", "b", "a", "b"], "text", ["a", "b"]),
        ([0, 1, 0, 1], "integer", [0, 1]),
        (["0.0", "1.0", "0", "1"], "integer", [0, 1]),
        ([10, 9, 9, 10], "integer", [9, 10]),
        ([True, False, True, False], "boolean", [False, True]),
        (["True", "False", "true", "false"], "boolean", [False, True]),
        (["01", "1", "01", "1"], "text", ["01", "1"]),
        ([1, 2, 3, 4], None, None),  # no class is met twice
        ([0.5, 1, 1, 1], None, None),
        (["1,5", "2,5", "1,5", "2,5"], None, None),
    ],
)
def test_which_targets_are_classes(cells, kind, labels):
    target = TablePreparation.fit({"x": [1, 2, 3, 4], "y": cells}, "y").target
    assert isinstance(target, Classes) is (kind is not None)
    if isinstance(target, Classes):
        assert target.labels == kind
        assert target.values.tolist() == labels


def test_data_that_is_no_table_in_memory():
    for data, error, words in [
        (
            polars.LazyFrame({"x": [1]}),
            TableError,
            r"in memory, got the lazy LazyFrame.*collect\(\)",
        ),
        (3, TypeError, "expected a data frame"),
        ({"x": [1, 2], "y": [1]}, TableError, "one length, got: 'x' has 2, 'y' has 1"),
        ({1: [1, 2], "1": [3, 4]}, TableError, "'1' is there twice"),
        ([[1, 2]], TableError, "expected a data frame"),
        (pandas.DataFrame([[1, 2]], columns=["x", "x"]), TableError, "name of its own"),
    ]:
        with pytest.raises(error, match=words):
            TablePreparation.fit(data, "x")


def test_rows_of_numbers_go_by_the_order_of_the_columns():
    columns = {"a": [1.0, 2.0, 4.0], "b": [0, 0, 0], "c": [3.0, 1.0, 2.0]}
    preparation = TablePreparation.fit({**columns, "y": ["u", "v", "u"]}, "y")
    expected = preparation.transform(columns).tolist()
    rows = np.column_stack(list(columns.values()))
    assert preparation.transform(rows).tolist() == expected
    assert preparation.transform(rows.tolist()).tolist() == expected
    with pytest.raises(
        TableError, match=r"shape \(rows, 3\), for 'a', 'b', 'c'; got shape \(3, 2\)"
    ):
        preparation.transform(rows[:, :2])


@pytest.mark.only("array_api_strict")
def test_an_array_on_a_device_is_refused():
    pytest.importorskip("array_api_strict")
    strict = backends.get("array_api_strict")
    preparation = prepared({"a": [1.0, 2.0], "b": [3.0, 1.0]})
    with pytest.raises(TableError, match="in host memory, got an array on array_api_strict"):
        preparation.transform(strict.asarray([[1.0, 2.0]]))


# --- the split


def test_hold_out_is_stratified_and_random():
    strata = np.asarray([0] * 50 + [1] * 30 + [2] * 3 + [3])
    (held,) = hold_out([strata], 0.2, seed=0)
    assert [int(held[strata == stratum].sum()) for stratum in range(4)] == [10, 6, 1, 0]
    assert (held == hold_out([strata], 0.2, seed=0)).all()
    assert (held != hold_out([strata], 0.2, seed=1)).any()
    assert not hold_out([strata], 0.0, seed=0)[0].any()
    (most,) = hold_out([strata], 0.99, seed=0)
    assert [int((~most)[strata == stratum].sum()) for stratum in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (17, 3), (1000, 5), (999, 400), (70000, 2)])
def test_hold_out_of_parts_is_that_of_the_whole(rows, classes):
    """The first of each stratum in the order of the portable permutation, however it is parted."""
    strata = np.random.default_rng(rows).integers(0, classes, rows)
    order = random.permutation(random.key(3, backends.get("numpy")), rows)
    for fraction in (0.2, 0.5, 0.99):
        want = np.zeros(rows, bool)
        for stratum in range(classes):
            among = order[strata[order] == stratum]
            want[among[: max(min(round(fraction * len(among)), len(among) - 1), 0)]] = True
        for cuts in ([], [rows // 3], [0, rows // 9, rows // 9, rows - 1]):
            found = hold_out(np.split(strata, cuts), fraction, seed=3)
            assert (np.concatenate(found) == want).all()


def test_frames_that_pandas_alone_has():
    frame = pandas.DataFrame(
        {
            0: pandas.array([1, None, 3, 4], dtype="Int64"),
            "c": pandas.Categorical(["u", "v", None, "u"]),
            "o": [True, "x", None, 2.0],
            "y": ["a", "b", "a", "b"],
        }
    )
    preparation = TablePreparation.fit(frame, "y")
    assert preparation.names == ("0", "c", "o")
    number, category, mixed = preparation.columns
    assert (number.scale.median, number.missing) == (3.0, True)
    assert category == Category("c", ("u", "v"), missing=True)
    assert set(mixed.categories) == {"2", "true", "x"}
    assert nw.from_native(frame).columns[0] == 0, "the user's frame is as it was"
