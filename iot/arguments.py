"""Arguments as a model or a sentence gives them, made to fit what a device reads (P).

The firmware takes a wrong JSON type for a missing argument (device protocol §9), and models like to send ``"30"`` for 30.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

_TRUE = frozenset({"true", "on", "yes", "1"})
_FALSE = frozenset({"false", "off", "no", "0"})


class ArgumentError(ValueError):
    """An argument is missing or cannot be read; the text is a sentence for the model."""


def fit_arguments(schema: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """``arguments`` with the types that the JSON schema names; what the schema does not know is dropped.

    A missing argument takes the schema's default when it has one. Raises ArgumentError for a missing required argument, a value that
    cannot be converted or one outside ``minimum``/``maximum``.
    """
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    required_names = set(required) if isinstance(required, list) else set()
    fitted: dict[str, Any] = {}
    for name, rule in properties.items():
        rules = rule if isinstance(rule, dict) else {}
        if name in arguments and arguments[name] is not None:
            fitted[name] = fit_value(name, rules, arguments[name])
        elif "default" in rules:
            fitted[name] = rules["default"]
        elif name in required_names:
            raise ArgumentError(f"Missing argument: {name}")
    return fitted


def fit_value(name: str, rules: dict[str, Any], value: Any) -> Any:
    """One value of the type that ``rules`` (a JSON schema) names. Raises ArgumentError."""
    kind = rules.get("type")
    if kind == "integer":
        number = _number(name, value)
        return _within(name, rules, round(number))
    if kind == "number":
        number = _number(name, value)
        return _within(name, rules, int(number) if number.is_integer() else number)
    if kind == "boolean":
        return _boolean(name, value)
    if kind == "string":
        return _string(name, rules, value)
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool):
        number = float(value)
    elif isinstance(value, int | float | str):
        text = value.strip().removesuffix("%").strip() if isinstance(value, str) else value
        try:
            number = float(text)
        except (ValueError, OverflowError):
            raise ArgumentError(f"Argument {name} must be a number") from None
    else:
        raise ArgumentError(f"Argument {name} must be a number")
    if not math.isfinite(number) or abs(number) > 2**53:
        raise ArgumentError(f"Argument {name} is out of range")
    return number


def _within(name: str, rules: dict[str, Any], number: float) -> float:
    minimum, maximum = rules.get("minimum"), rules.get("maximum")
    if _is_number(minimum) and number < minimum:
        raise ArgumentError(f"Argument {name} must be at least {minimum}")
    if _is_number(maximum) and number > maximum:
        raise ArgumentError(f"Argument {name} must be at most {maximum}")
    return number


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    raise ArgumentError(f"Argument {name} must be true or false")


def _string(name: str, rules: dict[str, Any], value: Any) -> str:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str | int | float):
        text = str(value)
    else:
        raise ArgumentError(f"Argument {name} must be a text")
    allowed = rules.get("enum")
    if isinstance(allowed, list) and allowed and text not in allowed:
        for candidate in allowed:
            if isinstance(candidate, str) and candidate.lower() == text.strip().lower():
                return candidate
        raise ArgumentError(f"Argument {name} must be one of {', '.join(str(item) for item in allowed[:20])}")
    return text
