"""Tables in CSV, NPY and Parquet files, and errors that name the row and the column."""

import numpy as np
import pandas as pd
import pytest

from tfp_realnvp.command_line.tables import as_numbers, read_table

GOOD_ROWS = "".join(f"{row},{row * row}\n" for row in range(60))


@pytest.mark.parametrize("header", ["", "first, second\n", ",second\n"])
def test_read_csv(header, tmp_path):
    file = tmp_path / "table.csv"
    file.write_text(header + GOOD_ROWS + "\n61,7\n\n")
    table = as_numbers(read_table(file))
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
        ("a,b\n1,5,2\n", "line 2 has 3 cells, but line 1 has 2"),
        ("id,mass\n1,5.5,2020\n2,6.5,2021\n3,7,2022\n", "line 2 has 3 cells, but line 1 has 2"),
        ("a,b\n1,2\n,\n3,4\n", r"line 3, column 'a': '' is not a finite number \(such cells: 1 in 'a', 1 in 'b'\)"),
        ("a;b\n1,5;2\n", "line 2, column 'a': '1,5' is not a finite number"),
        ("a,b,a\n1,2,3\n", "line 1 has the column 'a' more than once"),
        (" \n", "the file is empty"),
        (b"\x93NUMPY", "not text in UTF-8"),
        ("", "the file is empty"),
        (None, "No such file"),
    ],
)
def test_bad_csv_is_an_error(content, message, tmp_path):
    file = tmp_path / "table.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((OSError, ValueError), match=message):
        as_numbers(read_table(file))


@pytest.mark.parametrize(
    "content",
    ["0,1\n5,6\n", ",0,1\n0,5,6\n", "0;1\n5;6\n", "\n0\t1\n\n5\t6\n", "\ufeff0,1\n5,6\n", " 0 ,1\r\n5,6\r\n"],
)
def test_headers_separators_and_blank_lines(content, tmp_path):
    (tmp_path / "table.csv").write_text(content, encoding="utf-8", newline="")
    table = as_numbers(read_table(tmp_path / "table.csv"))
    assert table.to_dict("list") == {"0": [5.0], "1": [6.0]} and table.index.astype(int).tolist() == [0]


def test_truth_values_are_numbers(tmp_path):
    (tmp_path / "table.csv").write_text("a,flag\n1,True\n2,\n3,False\n")
    table = as_numbers(read_table(tmp_path / "table.csv"), may_be_missing=["flag"])
    np.testing.assert_array_equal(table["flag"], [1.0, np.nan, 0.0])


def test_read_npy(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "table.npy", rows)
    table = read_table(tmp_path / "table.npy")
    assert table.columns.tolist() == ["column 0", "column 1", "column 2"]
    np.testing.assert_array_equal(table, rows)
    rows[5, 1] = np.inf
    np.save(tmp_path / "bad.npy", rows)
    with pytest.raises(ValueError, match="row 5, column 'column 1': 'inf' is not a finite number"):
        as_numbers(read_table(tmp_path / "bad.npy"))
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
        as_numbers(found)
    pd.testing.assert_frame_equal(as_numbers(found[["a"]]), table[["a"]].astype("float64"))


def test_missing_values_of_some_columns(tmp_path):
    (tmp_path / "gaps.csv").write_text("a,b\n1,\n2,NA\n3, nan\n4,null\n5,6\n")
    found = as_numbers(read_table(tmp_path / "gaps.csv"), may_be_missing=["b"])
    np.testing.assert_array_equal(found["b"], [np.nan] * 4 + [6.0])
    (tmp_path / "gaps.csv").write_text("a,b\n1,\n2,?\n")
    with pytest.raises(ValueError, match=r"line 3, column 'b': '\?' is not a finite number \(such cells: 1 in 'b'\)"):
        as_numbers(read_table(tmp_path / "gaps.csv"), may_be_missing=["b"])
