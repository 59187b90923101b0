"""Oracle: the endpoints themselves. What is put into the file must be what the server answers."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weighbridge
from tests.server.conftest import arrow, client_of, make_run
from weighbridge.diagnosis.kept import diagnosis_to_json
from weighbridge.errors import BadInput
from weighbridge.server import diagnosing, onefile
from weighbridge.server.digest import keep_diagnosis
from weighbridge.store.record import open_run


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A page as the build makes one."""
    built = tmp_path / "built"
    (built / "assets").mkdir(parents=True)
    (built / "assets" / "page.js").write_text('const end = "</script><b>";')
    (built / "assets" / "page.css").write_text("b { color: red }")
    (built / "index.html").write_text(
        '<head><title>weighbridge</title><link rel="icon" href="/icon.svg">'
        '<script type="module" crossorigin src="/assets/page.js"></script>'
        '<link rel="stylesheet" crossorigin href="/assets/page.css"></head><div id="page"></div>'
    )
    return built


def content_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="frozen">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    told: dict[str, Any] = json.loads(found[1].replace("<\\/", "</"))
    return told


def opened(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def test_the_answers_are_those_of_the_server(folder: Path, static: Path, tmp_path: Path) -> None:
    told = content_of(onefile.one_file([folder / "first"], static))
    client = client_of(folder, tmp_path)
    assert told["runs"] == ["first"]
    answers = told["answers"]
    for what in ("run", "tensors", "notes"):
        assert json.loads(opened(answers[f"{what}?run=first"])) == client.get(f"/api/{what}?run=first").json()
    assert json.loads(opened(answers["rules?"])) == client.get("/api/rules").json()
    loss = arrow(opened(answers["loss?run=first"]))
    assert loss.equals(arrow(client.get("/api/loss?run=first").content))
    findings = json.loads(opened(answers["findings?run=first"]))
    assert (findings["known"], findings["pending"]) == (True, False)
    assert "logged?key=accuracy&run=first" in answers


def test_pictures_keep_three_digits_and_every_mark(folder: Path, static: Path, tmp_path: Path) -> None:
    answers = content_of(onefile.one_file([folder / "first"], static))["answers"]
    kept = arrow(opened(answers["heat?run=first&stat=gradient.rms"]))
    truth = arrow(client_of(folder, tmp_path).get("/api/heat?run=first&stat=gradient.rms").content)
    assert kept["mask"].equals(truth["mask"])
    assert np.allclose(kept["value"].to_numpy(), truth["value"].to_numpy(), rtol=2.0**-12)
    assert kept.schema.metadata == truth.schema.metadata


def test_the_file_needs_nothing_else_and_no_text_in_it_can_end_its_script(folder: Path, static: Path) -> None:
    page = onefile.one_file([folder / "first"], static)
    assert not re.search(r'(src|href)="', page)
    assert page.count("</script>") == 2
    assert "b { color: red }" in page
    assert page.index('id="frozen"') < page.index('const end = "<\\/script>')


def test_a_name_that_is_markup_stays_text(tmp_path: Path, static: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    make_run(tmp_path, "plain", steps=3).rename(tmp_path / evil)
    page = onefile.one_file([tmp_path / evil], static)
    assert "<img" not in page.split('id="frozen"')[0]
    assert content_of(page)["runs"] == [evil]


def test_several_runs_share_the_room_and_come_with_their_comparison(folder: Path, static: Path, tmp_path: Path) -> None:
    told = content_of(onefile.one_file([folder / "first", folder / "second"], static))
    assert told["runs"] == ["first", "second"]
    answers = told["answers"]
    assert {"run?run=first", "run?run=second"} <= set(answers)
    both = "run=first&run=second"
    client = client_of(folder, tmp_path)
    assert json.loads(opened(answers[f"compare?{both}"])) == client.get(f"/api/compare?{both}").json()
    kept = arrow(opened(answers[f"difference?{both}&stat=gradient.rms"]))
    truth = arrow(client.get(f"/api/difference?{both}&stat=gradient.rms").content)
    assert kept["mask"].equals(truth["mask"])
    name = json.loads(opened(answers[f"compare?{both}"]))["tensors"][0]
    assert json.loads(opened(answers[f"faces?{both}&tensor={name}"])) == client.get(f"/api/faces?{both}&tensor={name}").json()


def test_of_three_runs_each_two_can_be_set_side_by_side(folder: Path, static: Path) -> None:
    third = make_run(folder, "third", steps=4)
    answers = content_of(onefile.one_file([folder / "first", folder / "second", third], static))["answers"]
    assert {"compare?run=first&run=second&run=third", "compare?run=first&run=third"} <= set(answers)


def test_runs_of_one_name_in_two_folders_are_told_apart(tmp_path: Path, static: Path) -> None:
    places = [make_run(tmp_path / where, "same", steps=3) for where in ("x", "y")]
    assert content_of(onefile.one_file(places, static))["runs"] == ["x/same", "y/same"]


def test_too_many_runs_are_refused(folder: Path, static: Path) -> None:
    with pytest.raises(BadInput, match="name 8 at most"):
        onefile.one_file([folder / "first"] * 9, static)


def test_what_was_kept_of_the_rules_is_not_asked_again(folder: Path, static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = open_run(folder / "first")
    keep_diagnosis(record.path, record.info.state, record.info.steps, diagnosis_to_json(weighbridge.diagnose(record.path)))
    truth = content_of(onefile.one_file([folder / "first"], static))["answers"]["findings?run=first"]
    monkeypatch.setattr(diagnosing, "diagnose", lambda _: pytest.fail("the rules were asked again"))
    assert content_of(onefile.one_file([folder / "first"], static))["answers"]["findings?run=first"] == truth
    (folder / "first" / "diagnosis.json").unlink()
    monkeypatch.undo()
    assert content_of(onefile.one_file([folder / "first"], static))["answers"]["findings?run=first"] == truth
