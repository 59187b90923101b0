"""Oracle: golden text looked at by hand, and for numbers the arrays from which the runs were made."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.calling import Answer, call, check_golden, refused
from tests.report.made import Array, Made, expected, make_run, network
from weighbridge.catalog import all_names
from weighbridge.store.record import open_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def first(folder: Path) -> Made:
    return make_run(folder / "weighbridge-runs", network([2, 4, 1]), steps=30, per_epoch=5)


@pytest.fixture(autouse=True)
def here(folder: Path, first: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def shown(*words: str, columns: int = 80) -> str:
    answer = call("show", *words, columns=columns)
    assert answer.code == 0, answer.err
    assert not answer.err
    return answer.out


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def in_csv(*words: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(shown(*words, "--csv"))))


# ---- on the screen ----


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("overview", []),
        ("one-tensor", ["--tensor", "0.weight"]),
        ("series", ["-t", "0.bias", "-s", "gradient.rms", "-s", "parameter.mean"]),
        ("step", ["--step", "0"]),
        ("values", ["--values"]),
        ("epochs", ["--per", "epoch", "-t", "0.*"]),
    ],
)
def test_every_view_looks_right_at_both_widths(name: str, words: list[str], columns: int) -> None:
    text = shown("first", *words, columns=columns)
    assert widest(text) <= columns
    check_golden(f"{name}-{columns}", text)


@pytest.mark.parametrize("columns", [80, 200])
def test_one_tensor_is_one_line(tmp_path: Path, columns: int) -> None:
    made = make_run(tmp_path, {"weight": ((1,), "weight")}, steps=1, name="single")
    text = shown(str(made.path), columns=columns)
    assert widest(text) <= columns
    check_golden(f"single-{columns}", text)


@pytest.fixture(scope="module")
def blocks(folder: Path) -> Made:
    parts = {}
    for block in range(40):
        for layer in range(25):
            parts[f"blocks.{block}.mlp.{layer}.weight"] = ((2, 2), "weight")
            parts[f"blocks.{block}.mlp.{layer}.bias"] = ((2,), "bias")
    return make_run(folder / "weighbridge-runs", parts, steps=2, name="blocks")


@pytest.mark.parametrize("columns", [80, 200])
def test_two_thousand_tensors_fold_by_module(blocks: Made, columns: int) -> None:
    text = shown("blocks", columns=columns)
    assert widest(text) <= columns
    assert len(text.splitlines()) < 60
    assert "--all" in text
    check_golden(f"blocks-{columns}", text)


def test_all_shows_each_of_two_thousand_tensors(blocks: Made) -> None:
    text = shown("blocks", "--all", columns=200)
    assert sum(line.startswith("blocks.") for line in text.splitlines()) == 2000


def test_modules_that_do_not_fold_show_the_first_and_the_last(tmp_path: Path) -> None:
    made = make_run(tmp_path, network([2] * 121), steps=2, name="flat")
    text = shown(str(made.path))
    assert "… 200 tensors between them" in text
    assert "0.weight" in text
    assert "238.bias" in text
    assert widest(text) <= 80 or str(made.path) in text


def test_weight_and_bias_stand_together_and_are_told_apart(tmp_path: Path) -> None:
    parts = {"a.bias": ((2,), "bias"), "b.weight": ((2, 2), "weight"), "a.weight": ((2, 2), "weight"), "b.bias": ((2,), "bias")}
    made = make_run(tmp_path, parts, steps=1)
    rows = [line.split()[:2] for line in shown(str(made.path), columns=200).splitlines() if line[:2] in ("a.", "b.")]
    assert rows == [["a.weight", "W"], ["a.bias", "b"], ["b.weight", "W"], ["b.bias", "b"]]


def test_nan_is_told_and_what_was_not_recorded_is_a_dot(tmp_path: Path) -> None:
    def spoil(step: int, tensor: str, arrays: dict[str, Array]) -> None:
        if step == 3 and tensor == "0.weight":
            arrays["gradient"][:] = np.nan
            arrays["update"][:] = 0.0

    made = make_run(tmp_path, network([3, 2]), steps=4, change=spoil)
    text = shown(str(made.path))
    line = next(line for line in text.splitlines() if line.startswith("0.weight"))
    assert " NaN " in line
    assert line.endswith("×")
    assert "! NaN or Inf in the gradient of 0.weight, first at step 3" in text
    series = shown(str(made.path), "-t", "0.weight", "-s", "gradient.rms", "-s", "parameter.rms").splitlines()
    assert series[-2].split()[:2] == ["3", "NaN"]
    assert series[-1].split()[:2] == ["4", "·"]  # the closing row is of parameters only


def test_a_name_with_control_characters_or_markup_is_shown_as_text(tmp_path: Path) -> None:
    parts = {"a\x1b[31m.weight": ((2, 2), "weight"), "[red]x[/red].bias": ((2,), "bias"), "<img onerror>": ((2,), "other")}
    made = make_run(tmp_path, parts, steps=2)
    for words in ([], ["--step", "0"], ["--values"], ["-t", "*"]):
        text = shown(str(made.path), *words, columns=200)
        assert "\x1b" not in text
        assert "a\\x1b[31m" in text
        assert "[red]x[/red]" in text
        assert "<img onerror>" in text


def test_a_run_still_being_written_says_live(tmp_path: Path) -> None:
    made = make_run(tmp_path, network([2, 1]), steps=2, finish=False)
    assert "live, last data" in shown(str(made.path))


def test_a_tensor_that_is_not_weighed_says_why(tmp_path: Path) -> None:
    made = make_run(tmp_path, network([2, 1]), steps=2, notes={"0.bias": "counted, not weighed: integers"})
    assert "0.bias: counted, not weighed: integers" in shown(str(made.path))


def test_two_models_are_told_apart(tmp_path: Path) -> None:
    parts = {"weight": ((2, 2), "weight"), "weight ": ((2, 2), "weight")}
    made = make_run(tmp_path, parts, steps=1, models=("model", "model-2"))
    text = shown(str(made.path), columns=200)
    assert "model:weight" in text
    assert "model-2:weight" in text
    assert "model-2:weight " in shown(str(made.path), "-t", "model-2:*")


def test_the_newest_run_is_shown_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "weighbridge-runs", network([2, 1]), steps=1, name="older")
    make_run(tmp_path / "weighbridge-runs", network([2, 1]), steps=1, name="newer")
    monkeypatch.chdir(tmp_path)
    assert shown().startswith("newer ")


# ---- for programs ----


@pytest.mark.parametrize("name", all_names())
def test_every_statistic_of_the_catalogue_can_be_asked_for(first: Made, name: str) -> None:
    rows = in_csv("first", "-t", "0.weight", "-s", name)
    series = open_run(first.path).series("0.weight", name)
    assert [int(r["step"]) for r in rows] == series.steps.tolist()
    assert [float(r[name]).hex() for r in rows] == [float(v).hex() for v in series.values]


def test_csv_gives_back_every_bit_of_what_was_written(first: Made) -> None:
    for row in in_csv("first", "-t", "2.weight", "-s", "gradient.min", "-s", "parameter.max"):
        arrays = first.arrays[int(row["step"])]["2.weight"]
        assert float(row["parameter.max"]) == float(arrays["parameter"].max())
        if "gradient" in arrays:
            assert float(row["gradient.min"]) == float(arrays["gradient"].min())
        else:
            assert row["gradient.min"] == ""


def test_json_of_a_step_equals_the_arrays(first: Made) -> None:
    content = json.loads(shown("first", "--step", "7", "--json"))
    assert content["run"]["steps"] == 30
    assert [r["tensor"] for r in content["rows"]] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for row in content["rows"]:
        for quantity, array in first.arrays[7][row["tensor"]].items():
            for statistic in ("rms", "mean", "min", "max", "abs_max", "l2_norm", "count"):
                assert row[f"{quantity}.{statistic}"] == pytest.approx(expected(array, statistic), rel=1e-12)


def test_the_overview_takes_each_quantity_where_it_was_last_recorded(first: Made) -> None:
    rows = {r["tensor"]: r for r in json.loads(shown("first", "--json"))["rows"]}
    for tensor, row in rows.items():
        assert row["parameter.max"] == float(first.arrays[30][tensor]["parameter"].max())
        assert row["gradient.max"] == float(first.arrays[29][tensor]["gradient"].max())


def test_many_tensors_at_once_give_the_same_as_one_by_one(first: Made) -> None:
    together = in_csv("first", "-t", "*", "-s", "all")
    one_by_one = [row for name in network([2, 4, 1]) for row in in_csv("first", "-t", name, "-s", "all")]
    assert together == one_by_one
    assert len(together) == 4 * 31


def test_values_are_the_numbers_themselves(first: Made) -> None:
    rows = in_csv("first", "-t", "0.weight", "--values", "--step", "-1")
    assert {int(r["step"]) for r in rows} == {29}
    for row in rows:
        array = first.arrays[29]["0.weight"][row["quantity"]]
        assert np.float32(row["value"]) == array[int(row["row"]), int(row["column"])]
    assert len(rows) == 3 * 8


def test_epochs_give_the_last_value_and_the_mean(first: Made) -> None:
    rows = in_csv("first", "--per", "epoch", "-t", "0.bias", "-s", "gradient.rms")
    assert [(int(r["epoch"]), int(r["first_step"]), int(r["last_step"])) for r in rows[:2]] == [(0, 0, 4), (1, 5, 9)]
    inside = [expected(first.arrays[s]["0.bias"]["gradient"], "rms") for s in range(5, 10)]
    assert float(rows[1]["gradient.rms.last"]) == pytest.approx(inside[-1], rel=1e-12)
    assert float(rows[1]["gradient.rms.mean"]) == pytest.approx(float(np.mean(inside)), rel=1e-12)
    assert float(rows[1]["loss_mean"]) == pytest.approx(float(np.mean(first.losses[5:10])), rel=1e-12)


def test_nan_and_not_recorded_differ_for_programs_too(tmp_path: Path) -> None:
    def spoil(step: int, tensor: str, arrays: dict[str, Array]) -> None:
        if step == 0:
            arrays["gradient"][:] = np.nan
            arrays["update"][:] = 0.0

    made = make_run(tmp_path, network([2, 1]), steps=1, change=spoil)
    rows = in_csv(str(made.path), "-t", "0.weight", "-s", "gradient.rms", "-s", "parameter.rms")
    assert [r["gradient.rms"] for r in rows] == ["nan", ""]
    content = json.loads(shown(str(made.path), "-t", "0.weight", "-s", "gradient.rms", "-s", "parameter.rms", "--json"))
    assert [r["gradient.rms"] for r in content["rows"]] == ["NaN", None]


# ---- bad input ----


def ask(*words: str) -> Answer:
    return call("show", *words)


def test_an_unknown_run_suggests_the_nearest() -> None:
    assert "Did you mean first?" in refused(ask("fisrt"))


def test_the_last_words_of_a_name_are_enough_where_only_one_run_ends_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("20261126-130000-calm-oak", "20261126-130100-calm-elm", "20261126-130200-warm-elm"):
        make_run(tmp_path / "weighbridge-runs", network([2, 1]), steps=2, name=name)
    monkeypatch.chdir(tmp_path)
    assert "20261126-130000-calm-oak" in shown("calm-oak", columns=200)
    message = refused(ask("elm"))
    assert "Several end so: 20261126-130100-calm-elm, 20261126-130200-warm-elm" in message
    assert "There is no run 'm-oak'" in refused(ask("m-oak"))  # whole words


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    assert "no run.json" in refused(ask(str(tmp_path)))


def test_a_folder_of_runs_names_them() -> None:
    assert "first" in refused(ask("weighbridge-runs"))


def test_an_unknown_tensor_suggests_the_nearest() -> None:
    assert "Did you mean 0.weight" in refused(ask("first", "--tensor", "0.wieght"))


def test_an_unknown_statistic_suggests_the_nearest() -> None:
    assert "gradient.rms" in refused(ask("first", "--stat", "gradient.rsm"))


def test_a_step_outside_the_run_names_the_steps_there_are() -> None:
    assert "0 to 30" in refused(ask("first", "--step", "99"))
    assert "0 to 30" in refused(ask("first", "--step", "-99"))


def test_epochs_that_nobody_told_say_how_to_tell_them(tmp_path: Path) -> None:
    made = make_run(tmp_path, network([2, 1]), steps=2)
    assert "run.epochs" in refused(ask(str(made.path), "--per", "epoch"))


def test_options_that_contradict_each_other_are_refused() -> None:
    assert "Choose one" in refused(ask("first", "--json", "--csv"))
    assert "Leave one" in refused(ask("first", "--per", "epoch", "--step", "1"))


def test_a_damaged_segment_names_file_and_bytes_and_what_is_sound(tmp_path: Path) -> None:
    made = make_run(tmp_path, network([2, 1]), steps=3, finish=False)
    file = made.path / "rank-0" / "rows-0001.arrows"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    message = refused(ask(str(made.path)))
    assert "rows-0001.arrows, bytes " in message
    assert "Still sound: the losses" in message
    assert "Damaged in rows-0001.arrows: the statistics of step" in message


def test_a_run_of_a_newer_format_is_told(tmp_path: Path) -> None:
    from weighbridge.store.checked import read_sealed, write_sealed

    made = make_run(tmp_path, network([2, 1]), steps=1)
    content = {k: v for k, v in read_sealed(made.path / "run.json").items() if k != "check"}
    write_sealed(made.path / "run.json", {**content, "format": 99}, replace=True)
    assert "newer weighbridge" in refused(ask(str(made.path)))
