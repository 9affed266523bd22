"""Tables in CSV, NPY and Parquet files, and errors that name the row and the column."""

import numpy as np
import pandas as pd
import pytest

from tfp_realnvp.command_line.tables import numbers, read_table

GOOD_ROWS = "".join(f"{row},{row * row}\n" for row in range(60))


@pytest.mark.parametrize("header", ["", "first, second\n", ",second\n"])
def test_read_csv(header, tmp_path):
    file = tmp_path / "table.csv"
    file.write_text(header + GOOD_ROWS + "\n61,7\n\n")
    table = numbers(read_table(file))
    if header.startswith(","):
        assert table.index[-1] == "61" and table.loc["7"].to_dict() == {"second": 49}
    else:
        names = ["first", "second"] if header else ["column 0", "column 1"]
        assert table.index[-1] == 60 and table.loc[7].to_dict() == dict(zip(names, [7, 49], strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD_ROWS + "\n1,two\n,3\n", r"line 62, column 'column 1': 'two' is not .* 1 in 'column 0', 1 in 'column 1'"),
        ("a,b\n" + GOOD_ROWS + "1\n", "line 62, column 'b': '' is not a finite number"),
        (GOOD_ROWS + "nan,1\n", "line 61, column 'column 0': 'nan' is not a finite number"),
        (GOOD_ROWS + "1,-inf\n", "line 61, column 'column 1': '-inf' is not a finite number"),
        ("a,b\n1,5,2\n", "line 2 has more cells than the first line"),
        (b"\x93NUMPY", "not text in UTF-8"),
        ("", "No columns"),
        (None, "No such file"),
    ],
)
def test_bad_csv_is_an_error(content, message, tmp_path):
    file = tmp_path / "table.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((OSError, ValueError), match=message):
        numbers(read_table(file))


def test_read_npy(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "table.npy", rows)
    table = read_table(tmp_path / "table.npy")
    assert table.columns.tolist() == ["column 0", "column 1", "column 2"]
    np.testing.assert_array_equal(table, rows)
    rows[5, 1] = np.inf
    np.save(tmp_path / "bad.npy", rows)
    with pytest.raises(ValueError, match="row 5, column 'column 1': 'inf' is not a finite number"):
        numbers(read_table(tmp_path / "bad.npy"))
    np.save(tmp_path / "vector.npy", rows[0])
    with pytest.raises(ValueError, match=r"matrix .* got shape \[3\]"):
        read_table(tmp_path / "vector.npy")


def test_read_parquet(tmp_path):
    table = pd.DataFrame(
        {"a": pd.array([1, 2] * 30, "Int64"), "b": ["x", "y"] * 30}, [f"id {row}" for row in range(60)]
    )
    table.to_parquet(tmp_path / "table.parquet")
    found = read_table(tmp_path / "table.parquet")
    with pytest.raises(ValueError, match=r"row id 0, column 'b': 'x' is not a finite number \(such cells: 60 in 'b'\)"):
        numbers(found)
    pd.testing.assert_frame_equal(numbers(found[["a"]]), table[["a"]].astype("float64"))


def test_missing_values_of_some_columns(tmp_path):
    (tmp_path / "gaps.csv").write_text("a,b\n1,\n2,NA\n3, nan\n4,null\n5,6\n")
    found = numbers(read_table(tmp_path / "gaps.csv"), may_be_missing=["b"])
    np.testing.assert_array_equal(found["b"], [np.nan] * 4 + [6.0])
    (tmp_path / "gaps.csv").write_text("a,b\n1,\n2,?\n")
    with pytest.raises(ValueError, match=r"line 3, column 'b': '\?' is not a finite number \(such cells: 1 in 'b'\)"):
        numbers(read_table(tmp_path / "gaps.csv"), may_be_missing=["b"])
