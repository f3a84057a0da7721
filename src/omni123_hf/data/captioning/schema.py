"""JSON Schema, as far as the answers of a model need it: the same schema is sent to the model and checked here."""

from __future__ import annotations

import json
import re
from typing import Any

from omni123_hf.errors import Omni123Error


Schema = dict[str, Any]

MAX_REPORTED_ERRORS = 8
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "integer": int}


class ReplyError(Omni123Error):
    """An answer that cannot be used; `errors` are sentences that can be quoted to the model."""

    def __init__(self, errors: list[str]):
        super().__init__("; ".join(errors[:MAX_REPORTED_ERRORS]))
        self.errors = errors[:MAX_REPORTED_ERRORS]


def text(low: int = 1, high: int = 1500) -> Schema:
    """A string of `low` to `high` characters."""
    return {"type": "string", "minLength": low, "maxLength": high}


def choice(values: list[str]) -> Schema:
    """One of the given strings."""
    return {"type": "string", "enum": values}


def array(items: Schema, low: int, high: int | None = None) -> Schema:
    """`low` to `high` items; exactly `low` when `high` is None."""
    return {"type": "array", "items": items, "minItems": low, "maxItems": low if high is None else high}


def record(**properties: Schema) -> Schema:
    """An object with exactly these keys. Their order is the order in which a model writes, hence thinks."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def schema_text(schema: Schema) -> str:
    """The schema as it stands in a prompt."""
    return json.dumps(schema, ensure_ascii=False)


def read_reply(reply: str, schema: Schema) -> dict[str, Any]:
    """The JSON object of a model's reply, checked against `schema`.

    Thoughts before `</think>`, a code fence and words around the object are passed over. Raises `ReplyError`.
    """
    value = _first_object(reply)
    errors = validate(value, schema)
    if errors:
        raise ReplyError(errors)
    return value


def _first_object(reply: str) -> dict[str, Any]:
    answer = reply.rpartition("</think>")[2]
    fenced = _FENCE.search(answer)
    if fenced and "{" in fenced[1]:
        answer = fenced[1]
    start = answer.find("{")
    if start < 0:
        raise ReplyError(["the answer holds no JSON object"])
    try:
        value, _ = json.JSONDecoder(parse_constant=_no_constant).raw_decode(answer, start)
    except RecursionError as error:
        raise ReplyError(["the JSON is nested too deeply"]) from error
    except ValueError as error:
        raise ReplyError([f"the answer is not valid JSON: {error}"]) from error
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def validate(value: Any, schema: Schema, path: str = "$") -> list[str]:
    """What is wrong with `value`, as sentences; an empty list when nothing is."""
    kind = schema["type"]
    is_kind = isinstance(value, _TYPES[kind]) and not isinstance(value, bool)
    if not is_kind:
        return [f"{path} must be of type {kind}"]
    if kind == "object":
        return _validate_object(value, schema, path)
    if kind == "array":
        low, high = schema["minItems"], schema["maxItems"]
        if not low <= len(value) <= high:
            return [f"{path} has {len(value)} items, not {low if low == high else f'{low} to {high}'}"]
        return [e for i, item in enumerate(value) for e in validate(item, schema["items"], f"{path}[{i}]")]
    if kind == "integer":
        low, high = schema["minimum"], schema["maximum"]
        return [] if low <= value <= high else [f"{path} is {value}, not within {low} to {high}"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path} must be one of: {', '.join(schema['enum'])}"]
    low, high = schema["minLength"], schema["maxLength"]
    if not low <= len(value.strip()) or len(value) > high:
        return [f"{path} has {len(value)} characters, not {low} to {high}"]
    return []


def _validate_object(value: dict[str, Any], schema: Schema, path: str) -> list[str]:
    properties = schema["properties"]
    errors = [f"{path} lacks {name!r}" for name in properties if name not in value]
    # Keys are the model's words: quoted short, because they come back in a repair turn and in a log.
    errors += [f"{path} has the unknown key {name[:40]!r}" for name in list(value)[:20] if name not in properties]
    for name, inner in properties.items():
        if name in value:
            errors += validate(value[name], inner, f"{path}.{name}")
    return errors
