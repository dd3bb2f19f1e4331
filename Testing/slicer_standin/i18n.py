"""slicer.i18n: translation functions that return the text unchanged."""

from __future__ import annotations


def translate(context: str, text: str) -> str:
    if not isinstance(context, str) or not isinstance(text, str):
        raise TypeError(f"only text is translated, not {text!r}")
    return text


def tr(text: str) -> str:
    return translate("", text)
