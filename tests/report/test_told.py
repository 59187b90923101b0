"""What a run that is still being written says of itself. Oracle: the findings that the training itself heard."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from starlette.testclient import TestClient

import weighbridge
from tests.cli.calling import call
from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.kept import findings_in, row_of, told_of
from weighbridge.diagnosis.rule import Diagnosis
from weighbridge.records import FINDINGS
from weighbridge.report.findings import told_lines
from weighbridge.server.app import create_app
from weighbridge.server.runs import Runs
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter


def finding(rule: str, step: int, severity: str = "error") -> Finding:
    evidence = (ValueEvidence("v", float("inf"), None, "s"),)
    return Finding("0", step, step + 1, "m", evidence, "f", rule, severity, "proof", depth=0.5)  # type: ignore[arg-type]


def written(where: Path, *findings: Finding) -> weighbridge.RunRecord:
    import pyarrow as pa

    run = create_run(where, "run", {})
    rows = [dict(zip(FINDINGS.names, row_of(one, 0), strict=True)) for one in findings]
    RankWriter(run).write({"findings": pa.RecordBatch.from_pylist(rows, FINDINGS)}, 0, 9)
    return weighbridge.open_run(run)


def test_findings_come_back_from_the_files_as_they_were_and_each_once(tmp_path: Path) -> None:
    told = [finding("lost-updates", 3), finding("nonfinite-origin", 5), finding("lost-updates", 7)]
    record = written(tmp_path, *told)
    assert repr(findings_in(record.whole("findings"))) == repr(tuple(told[:2]))


def test_what_follows_from_what_is_known_without_asking_the_rules(tmp_path: Path) -> None:
    record = written(tmp_path, finding("scaler-starvation", 5, "warning"), finding("nonfinite-origin", 3))
    told = told_of(record)
    assert [(f.rule, f.explains) for f in told] == [
        ("nonfinite-origin", ("scaler-starvation at 0",)),
        ("scaler-starvation", ()),
    ]
    assert told.steps == 7
    assert [line.plain for line in told_lines(record, 80)] == [
        "error  nonfinite-origin at 0  from step 3, told at 4",
        "warning  scaler-starvation at 0  from step 5, told at 6",
        "weighbridge diagnose run",
    ]
    known = Diagnosis("x", (finding("nonfinite-origin", 3),), steps=50)
    assert [f.rule for f in told_of(record, known)] == ["nonfinite-origin", "scaler-starvation"]
    assert told_of(record, known).steps == 50


def test_a_run_that_is_being_written_shows_what_was_found_so_far(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(16, 4)
    run = weighbridge.init(dir=tmp_path, name="run", quiet=True)
    weighbridge.watch(model, select=["gradients-not-zeroed"])
    end = time.monotonic() + 120
    while not run.findings and time.monotonic() < end:
        (model(x) - x[:, :1]).square().mean().backward()
        optimizer.step()
    run.flush()
    assert "gradients-not-zeroed  from step 1, told at 3" in call("show", str(run.path)).out
    assert [f.rule for f in weighbridge.diagnose(run.path, select=["gradients-not-zeroed"])] == ["gradients-not-zeroed"]
    client = TestClient(create_app(Runs(tmp_path)), base_url="http://127.0.0.1")
    told = client.get("/api/findings?run=run").json()
    assert told["known"]
    assert [f["rule"] for f in told["findings"]] == ["gradients-not-zeroed"]
    assert client.get("/api/run?run=run").json()["findings"] == 1
    run.finish()
    assert "gradients-not-zeroed" in call("show", str(run.path)).out


def test_the_last_step_of_a_run_that_grows_is_not_judged(tmp_path: Path) -> None:
    from tests.store.made_rows import rows, steps
    from weighbridge.diagnosis import Needs
    from weighbridge.diagnosis.stream import RecordedRun

    run = create_run(tmp_path, "run", {})
    writer = RankWriter(run)
    writer.write({"rows": rows(0, 8), "steps": steps(0, 8)}, 0, 7)
    writer.write({"steps": steps(8, 12)}, 8, 11)  # their rows are not written yet
    needs = Needs(parameter=["rms"], tables=["steps"])
    record = weighbridge.open_run(run)
    assert [b.stop for b in RecordedRun(record, needs, is_growing=True).blocks()] == [7]
    assert record.info.state == "live"
    assert weighbridge.diagnose(run).steps == 7
    assert [b.stop for b in RecordedRun(record, needs).blocks()] == [12]
