"""SARIF 2.1.0. Oracle: what the standard's schema requires of each object, written down here from its text."""

from __future__ import annotations

import json
import re
import urllib.parse
from typing import Any

import pytest

from tests.cli.test_diagnose import everything
from weighbridge.diagnosis import Diagnosis, registry
from weighbridge.report.sarif import sarif

# Of sarif-schema-2.1.0.json: required properties, and all that an object may have (additionalProperties is false).
OBJECTS: dict[str, tuple[set[str], set[str]]] = {
    "sarifLog": ({"version", "runs"}, {"$schema", "version", "runs", "inlineExternalProperties", "properties"}),
    "run": (
        {"tool"},
        {
            *("tool", "invocations", "conversion", "language", "versionControlProvenance", "originalUriBaseIds", "artifacts"),
            *("logicalLocations", "graphs", "results", "automationDetails", "runAggregates", "baselineGuid", "redactionTokens"),
            *("defaultEncoding", "defaultSourceLanguage", "newlineSequences", "columnKind", "externalPropertyFileReferences"),
            *("threadFlowLocations", "taxonomies", "addresses", "translations", "policies", "webRequests", "webResponses"),
            *("specialLocations", "properties"),
        },
    ),
    "tool": ({"driver"}, {"driver", "extensions", "properties"}),
    "toolComponent": (
        {"name"},
        {
            *("guid", "name", "organization", "product", "productSuite", "shortDescription", "fullDescription", "fullName"),
            *("version", "semanticVersion", "dottedQuadFileVersion", "releaseDateUtc", "downloadUri", "informationUri"),
            *("globalMessageStrings", "notifications", "rules", "taxa", "locations", "language", "contents", "isComprehensive"),
            *("localizedDataSemanticVersion", "minimumRequiredLocalizedDataSemanticVersion", "associatedComponent"),
            *("translationMetadata", "supportedTaxonomies", "properties"),
        },
    ),
    "reportingDescriptor": (
        {"id"},
        {
            *("id", "deprecatedIds", "guid", "deprecatedGuids", "name", "deprecatedNames", "shortDescription"),
            *("fullDescription", "messageStrings", "defaultConfiguration", "helpUri", "help", "relationships", "properties"),
        },
    ),
    "multiformatMessageString": ({"text"}, {"text", "markdown", "properties"}),
    "reportingConfiguration": (set(), {"enabled", "level", "rank", "parameters", "properties"}),
    "invocation": (
        {"executionSuccessful"},
        {"executionSuccessful", "toolExecutionNotifications", "toolConfigurationNotifications", "commandLine", "properties"},
    ),
    "notification": (
        {"message"},
        {"message", "level", "locations", "threadId", "timeUtc", "exception", "descriptor", "associatedRule", "properties"},
    ),
    "result": (
        {"message"},
        {
            *("ruleId", "ruleIndex", "rule", "kind", "level", "message", "analysisTarget", "locations", "guid"),
            *("correlationGuid", "occurrenceCount", "partialFingerprints", "fingerprints", "stacks", "codeFlows", "graphs"),
            *("graphTraversals", "relatedLocations", "suppressions", "baselineState", "rank", "attachments", "hostedViewerUri"),
            *("workItemUris", "provenance", "fixes", "taxa", "webRequest", "webResponse", "properties"),
        },
    ),
    "location": (
        set(),
        {"id", "physicalLocation", "logicalLocations", "message", "annotations", "relationships", "properties"},
    ),
    "logicalLocation": (
        set(),
        {"name", "index", "fullyQualifiedName", "decoratedName", "parentIndex", "kind", "properties"},
    ),
    "artifactLocation": (set(), {"uri", "uriBaseId", "index", "description", "properties"}),
}


def is_a(kind: str, found: dict[str, Any]) -> None:
    required, known = OBJECTS[kind]
    assert required <= found.keys() <= known, kind


def check(log: dict[str, Any], rules: int) -> None:
    is_a("sarifLog", log)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    is_a("run", run)
    is_a("tool", run["tool"])
    driver = run["tool"]["driver"]
    is_a("toolComponent", driver)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", driver["semanticVersion"])
    assert len(driver["rules"]) == rules == len({rule["id"] for rule in driver["rules"]})
    for rule in driver["rules"]:
        is_a("reportingDescriptor", rule)
        for name in ("shortDescription", "fullDescription", "help"):
            is_a("multiformatMessageString", rule[name])
            assert rule[name]["text"]
        is_a("reportingConfiguration", rule["defaultConfiguration"])
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
    for invocation in run["invocations"]:
        is_a("invocation", invocation)
        for note in invocation["toolExecutionNotifications"]:
            is_a("notification", note)
            assert note["associatedRule"].keys() <= {"id", "index", "guid", "toolComponent", "properties"}
    for result in run["results"]:
        is_a("result", result)
        assert result["message"].keys() <= {"text", "markdown", "id", "arguments", "properties"}
        assert result["level"] in ("none", "note", "warning", "error")
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
        for location in result["locations"]:
            is_a("location", location)
            is_a("artifactLocation", location["physicalLocation"]["artifactLocation"])
            uri = location["physicalLocation"]["artifactLocation"]["uri"]
            assert urllib.parse.urlsplit(uri).geturl() == uri
            assert " " not in uri
            for logical in location.get("logicalLocations", []):
                is_a("logicalLocation", logical)


def test_every_kind_of_finding_is_a_result_of_the_standard() -> None:
    diagnosis = everything()
    log = sarif(diagnosis, registry.rules())
    check(json.loads(json.dumps(log, allow_nan=False)), len(registry.rules()))
    (run,) = log["runs"]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [(f.rule, f.severity) for f in diagnosis.findings]
    assert run["results"][0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "encoder.layers.3.mlp"
    assert run["invocations"][0]["executionSuccessful"] is False  # one rule has failed
    assert run["results"][0]["properties"]["evidence"][0]["value"] == "NaN"


@pytest.mark.parametrize("subject", ["runs/my run", "/data/my run", "first"])
def test_the_run_s_folder_is_an_address(subject: str) -> None:
    found = everything()
    check(sarif(Diagnosis(subject, found.findings, ()), registry.rules()), len(registry.rules()))
