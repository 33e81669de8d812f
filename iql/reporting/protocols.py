"""Short names for the protocols of a report's tables, and what sets them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from iql.reporting.reading import Protocol


def letters(count: int) -> list[str]:
    """A, B, …, Z, AA, AB, …: so many."""
    return [_letter(number) for number in range(count)]


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def differences(protocols: Mapping[str, Protocol]) -> dict[str, str]:
    """Of each protocol, by its letter, the fields that are not the same in all of them."""
    names = [field.name for field in fields(Protocol)]
    differing = [name for name in names if len({getattr(each, name) for each in protocols.values()}) > 1]
    return {
        letter: ", ".join(f"{name} {_text(getattr(protocol, name))}" for name in differing)
        for letter, protocol in protocols.items()
    }


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else f"{value:,}" if isinstance(value, int) else str(value)
