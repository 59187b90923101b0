"""Rules that say what is wrong with a run. Rules read blocks of recorded steps; nothing here imports torch."""

from weighbridge.diagnosis.evidence import (
    Evidence,
    HistogramEvidence,
    SeriesEvidence,
    SettingEvidence,
    TableEvidence,
    ValueEvidence,
)
from weighbridge.diagnosis.rule import INPUT, Answer, Diagnosis, Finding, Needs, Outcome, Rule

__all__ = [
    "INPUT",
    "Answer",
    "Diagnosis",
    "Evidence",
    "Finding",
    "HistogramEvidence",
    "Needs",
    "Outcome",
    "Rule",
    "SeriesEvidence",
    "SettingEvidence",
    "TableEvidence",
    "ValueEvidence",
]
