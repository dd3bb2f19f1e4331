"""The self-test of the module, run in the stand-in for Slicer."""

from __future__ import annotations

import unittest


def test_self_test_passes_as_slicer_runs_it(widget):
    import SkullVAE

    # As slicer_add_python_unittest does: each method whose name starts with test_ separately.
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(SkullVAE.SkullVAETest)
    assert suite.countTestCases() == 2
    result = unittest.TestResult()
    suite.run(result)
    assert result.wasSuccessful(), result.failures + result.errors
    assert not result.skipped
