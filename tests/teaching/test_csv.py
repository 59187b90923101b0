"""Oracle: the files written here, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

import weighbridge
from weighbridge.errors import BadInput
from weighbridge.teaching.data import load


def write(folder: Path, text: str, name: str = "plants.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


ROWS = "\n".join(f"{i},{i * i % 7},{'tall' if i % 3 else 'short'}" for i in range(30))


def test_a_file_with_words_to_predict_is_a_classification_and_the_answer_says_why(tmp_path):
    path = write(tmp_path, f"height,width,kind\n{ROWS}\n")
    result = weighbridge.lab(layers="2-4-2", data=path, epochs=2, watch=False)
    assert result.data.classes == ("short", "tall")
    assert result.data.features == ("height", "width")
    assert "plants: 30 rows, 2 inputs, 2 classes (classification: the target column holds words (column kind))" in str(result)


def test_the_target_may_be_any_column(tmp_path):
    data = load(write(tmp_path, "y,a,b\n" + "\n".join(f"{i / 7},{i},{-i}" for i in range(30))), target="y")
    assert (data.task, data.features, data.inputs) == ("regression", ("a", "b"), 2)
    assert data.y[7, 0] == pytest.approx(1.0)


def test_a_few_whole_numbers_are_classes_and_many_are_not(tmp_path):
    few = load(write(tmp_path, "a,b\n" + "\n".join(f"{i},{i % 3}" for i in range(30))))
    many = load(write(tmp_path, "a,b\n" + "\n".join(f"{i},{i * 2}" for i in range(30))))
    told = load(write(tmp_path, "a,b\n" + "\n".join(f"{i},{i % 3}" for i in range(30))), task="regression")
    assert (few.task, few.why) == ("classification", "the target has 3 different whole numbers (column b)")
    assert (many.task, told.task) == ("regression", "regression")


def test_a_file_without_a_header_gets_numbered_columns(tmp_path):
    data = load(write(tmp_path, "1;2;0.5\n3;4;0.25\n5;6;0.75\n"))
    assert (data.features, data.rows) == (("column1", "column2"), 3)
    words = load(write(tmp_path, "1.0,2.0,red\n3.0,4.0,blue\n5.0,6.5,red\n"))
    assert (words.rows, words.classes) == (3, ("blue", "red"))


@pytest.mark.parametrize(
    ("text", "target", "words"),
    [
        ("a,b,y\n1,2,3\n4,5,6\n", "z", "has no column 'z' to predict. Did you mean"),
        ("a,weight,y\n1,2,3\n4,5,6\n", "wieght", "Did you mean weight?"),
        ("a,b,y\n1,2,3\n\n4,,6\n7,NaN,8\n", None, "2 missing value(s) in 2 row(s); the first is in line 4, column b"),
        ("a,b,y\n1,red,3\n4,blue,6\n", None, "line 2: column b holds text ('red'). Inputs must be numbers"),
        ("a,b,y\n1,2,3\n4,5\n", None, "line 3: 2 cells, but the first line has 3"),
        ("a,b,y\n1,inf,3\n4,5,6\n", None, "not a finite number"),
        ("a,b,y\n1,2,inf\n4,5,6\n", None, "not finite numbers"),
        ("a,a,y\n1,2,3\n4,5,6\n", None, "more than one column named a"),
        ("y\n1\n2\n3\n", None, "a target without inputs"),
        ("a,y\n1,2\n", None, "too few to train on"),
        ("a,y\n1,x\n2,x\n3,x\n", None, "one value only ('x')"),
        ("", None, "is empty"),
        ("a,y\n" + "\n".join(f"{i},name{i}" for i in range(50)), None, "looks like names, not classes"),
    ],
)
def test_a_file_that_cannot_be_trained_on_says_where_and_what_to_do(tmp_path, text, target, words):
    path = write(tmp_path, text)
    if target == "z":
        words = words.partition(" Did")[0]
    with pytest.raises(BadInput) as error:
        load(path, target)
    assert words in str(error.value)


def test_a_file_that_is_not_there_or_not_text_says_so(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        load(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BadInput, match="not text in UTF-8"):
        load(tmp_path / "bad.csv")
