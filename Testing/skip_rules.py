"""A pytest plugin that turns a skip into a failure unless its reason is on a list, and counts skips by reason.

Skips are calls of pytest.skip and pytest.importorskip (in a test, a fixture or a whole file), the marks skip, skipif
and xfail, an empty parameter set, and unittest's skips. The list is in conftest.py.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import pytest
import system_libraries


class AllowedSkip(NamedTuple):
    """Why a skip is acceptable, and the values of sys.platform where it is; none means every platform."""

    why: str
    platforms: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether this platform is one of them."""
        return not self.platforms or sys.platform in self.platforms


class SkipRules:
    """The plugin.

    Parameters
    ----------
    allowed
        Reason of a skip, word for word -> why it is acceptable.
    """

    def __init__(self, allowed: Mapping[str, AllowedSkip]) -> None:
        self.allowed = allowed

    # Called in the process that runs the test: pytest-xdist's controller receives a failure like any other. It would
    # report only one of several files that are skipped by the same line of a common helper.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self):
        return self._judged((yield))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self):
        return self._judged((yield))

    def pytest_terminal_summary(self, terminalreporter) -> None:
        stats = terminalreporter.stats
        reports = [report for name in ("skipped", "xfailed", "xpassed") for report in stats.get(name, ())]
        counts = Counter(reason_of(report) for report in reports)
        terminalreporter.section("skipped tests by reason")
        if not counts:
            terminalreporter.write_line("none")
        for reason, count in counts.most_common():
            terminalreporter.write_line(f"{count:4} {reason} (allowed: {self.allowed[reason].why})")

    def _judged(self, report):
        """The report, as a failure where it is a skip that is not allowed here."""
        reason = reason_of(report)
        if reason is None:
            return report
        allowed = self.allowed.get(reason)
        if allowed and allowed.holds:
            return report
        where = f" on {sys.platform}" if allowed else ""
        remedy = system_libraries.remedy(reason) or (
            "Remove the cause, or add the reason to ALLOWED_SKIPS in Testing/conftest.py with why it is acceptable"
        )
        report.outcome = "failed"
        report.longrepr = f"This skip is not allowed{where}: {report.nodeid}\nReason: {reason}\n{remedy}."
        if hasattr(report, "wasxfail"):
            del report.wasxfail
        return report


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """The reason for which a test or file was skipped or expected to fail; None where it was not."""
    if hasattr(report, "wasxfail"):  # also where a test passes that was expected to fail
        return report.wasxfail.removeprefix("reason: ") or "xfail without a reason"
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return reason.removeprefix("Skipped").removeprefix(": ") or "skip without a reason"
    return None
