"""The reference of the command line, from its parsers: whatever a command takes is on the page."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from SkullVAELib.cli.main import _parser as command_line_parser

ROOT = Path(__file__).resolve().parent.parent.parent

SCRIPTS = ("Training/train.py", "Training/report.py")
"""Scripts whose help is shown as they print it."""


def commands() -> str:
    """All commands in Markdown."""
    parser = command_line_parser()
    parts = _overview(parser)
    for name, command, _ in _commands(parser):
        parts += _section(name, command, level=2)
    parts.append("## Training scripts\n")
    for script in SCRIPTS:
        parts.append(f"### {Path(script).name} {{ #{_anchor(script)} }}\n")
        parts.append(f"```text\n{_printed_help(script)}\n```\n")
    return "\n".join(parts)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Name, parser and one-line help of each subcommand of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield name, command, helps.get(name, "")


def _overview(parser: argparse.ArgumentParser) -> list[str]:
    rows = [f"| [`{name}`](#{_anchor(command.prog)}) | {_cell(text)} |" for name, command, text in _commands(parser)]
    return ["| command | purpose |", "|---|---|", *rows, ""]


def _section(name: str, command: argparse.ArgumentParser, level: int) -> list[str]:
    """A command with its options, and its own commands below it."""
    parts = [f"{'#' * level} {name} {{ #{_anchor(command.prog)} }}\n"]
    if command.description:
        parts.append(_sentences(command.description) + "\n")
    parts.append(f"```text\n{_usage(command)}\n```\n")
    for group in command._action_groups:
        actions = [
            action
            for action in group._group_actions
            if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
            and action.help is not argparse.SUPPRESS
        ]
        if actions:
            if group.title not in ("positional arguments", "options"):
                parts.append(
                    f"**{_sentences(group.title or '')}**{': ' + group.description if group.description else ''}\n"
                )
            title = "argument" if group.title == "positional arguments" else "option"
            parts += [f"| {title} | meaning |", "|---|---|", *(_row(command, action) for action in actions), ""]
    if command.epilog:
        parts.append(_sentences(command.epilog) + "\n")
    for child_name, child, _ in _commands(command):
        parts += _section(f"{name} {child_name}", child, level + 1)
    return parts


def _row(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One line of a table: how the option is written, what it does, what it may be and what it is by default."""
    metavar = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    values = {None: f" {metavar}", 0: "", "?": f" [{metavar}]"}.get(action.nargs, f" {metavar} ...")
    if not action.option_strings:
        written = f"`{metavar}`"
    else:
        written = ", ".join(f"`{name}{values}`" for name in action.option_strings)
        written = f"**{written}**" if action.required else written
    text = command._get_formatter()._expand_help(action) if action.help else ""
    if _states_default(action) and "default" not in text:
        text = f"{text} (default {action.default})".strip()
    return f"| {written} | {_cell(' '.join(text.split()))} |"


def _states_default(action: argparse.Action) -> bool:
    # The default of --progress depends on the terminal; its help text describes it.
    return action.choices is not None and action.default is not None and action.dest != "progress"


def _usage(command: argparse.ArgumentParser) -> str:
    """The synopsis: what must be given, and that there are options."""
    parts = [command.prog]
    optional = False
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            parts.append(str(action.metavar or "COMMAND"))
        elif not action.option_strings:
            parts.append(str(action.metavar or action.dest.upper()))
        elif action.required:
            parts.append(f"{action.option_strings[0]} {action.metavar or action.dest.upper()}")
        elif not isinstance(action, argparse._HelpAction):
            optional = True
    return " ".join([*parts, "[options]"] if optional else parts)


def _printed_help(script: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / script), "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, encoding="utf-8")
    return process.stdout.strip()


def _anchor(name: str) -> str:
    """What an address of a section ends in, as in `skullvae-complete`."""
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-")


def _sentences(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    # A bar would end the cell, and JSON in a help text would be read as the cell's attributes.
    return "".join(f"&#{ord(character)};" if character in "|{}<" else character for character in text)
