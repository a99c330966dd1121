"""Generated requests: whatever the OpenAPI document allows or forbids, no 5xx and no undocumented
status comes back.
"""

import importlib
import os
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("prometheus_client")

from hypothesis import HealthCheck, given, settings

EXAMPLES = int(os.environ.get("HALU_EXAMPLES", "6"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def chosen_checks() -> list[Any]:
    importlib.import_module("schemathesis.checks").load_all_checks()
    return [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]


def reach_the_engine(body: dict[str, Any]) -> None:
    """Leaves the rest as it was generated."""
    body["model"] = "tiny-llava"
    body["max_tokens"] = 2
    body.pop("max_completion_tokens", None)


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_server_errors_and_no_undocumented_statuses(served: Any, mode: str) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    checks = chosen_checks()
    generation = getattr(schemathesis.GenerationMode, mode)
    ran = []

    def fuzz(operation: Any) -> None:
        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=generation))
        def run(case: Any) -> None:
            if mode == "POSITIVE" and isinstance(case.body, dict) and "messages" in case.body:
                reach_the_engine(case.body)
            case.call_and_validate(base_url=served.url, checks=checks)
            ran.append(case.path)

        run()

    for found in schema.get_all_operations():
        operation = found.ok()
        if mode == "POSITIVE" or operation.body:
            fuzz(operation)
    assert "/v1/chat/completions" in ran
