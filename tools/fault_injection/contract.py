"""Checks responses against the contract, and whether it has idempotency keys."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from tests.support.contract_check import ContractCheck


class CompiledCheck(ContractCheck):
    """The contract check with schemas that are compiled once, because a load needs the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self._compiled: dict[int, jsonschema_rs.Draft202012Validator] = {}

    def validate(self, schema: dict[str, Any], value: Any) -> list[str]:
        validator = self._compiled.get(id(schema))
        if validator is None:
            full_schema = {**schema, "components": self.document["components"]}
            validator = jsonschema_rs.Draft202012Validator(full_schema, validate_formats=True)
            # The document keeps its schemas alive, so their ids stay unique.
            self._compiled[id(schema)] = validator
        return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(value)]


CHECK = CompiledCheck()
_PARAMETERS = CHECK.document["paths"]["/api/v1/users/{user_id}/tasks"]["post"]["parameters"]
HAS_IDEMPOTENCY_KEY = any(
    CHECK.resolve(parameter)["name"].lower() == "idempotency-key" for parameter in _PARAMETERS
)
