"""Typed reads from JSON objects and metadata tables: a value of the wrong kind is named."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import ConfigError


def optional_int(source: Mapping[str, object], key: str) -> int | None:
    value = source.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"[config] {key}: expected an integer, got {value!r}")
    return value


def required_int(source: Mapping[str, object], key: str) -> int:
    value = optional_int(source, key)
    if value is None:
        raise ConfigError(f"[config] {key}: expected an integer, but the key is missing")
    return value


def int_or(source: Mapping[str, object], key: str, default: int) -> int:
    value = optional_int(source, key)
    return default if value is None else value


def required_float(source: Mapping[str, object], key: str) -> float:
    value = source.get(key)
    if value is None:
        raise ConfigError(f"[config] {key}: expected a number, but the key is missing")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"[config] {key}: expected a number, got {value!r}")
    return float(value)


def float_or(source: Mapping[str, object], key: str, default: float) -> float:
    return default if source.get(key) is None else required_float(source, key)


def bool_or(source: Mapping[str, object], key: str, default: bool) -> bool:
    value = source.get(key, default)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"[config] {key}: expected true or false, got {value!r}")
    return value


def str_or(source: Mapping[str, object], key: str, default: str) -> str:
    value = source.get(key, default)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ConfigError(f"[config] {key}: expected a string, got {value!r}")
    return value
