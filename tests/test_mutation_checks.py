"""``make prove`` takes ten minutes; that its faults can still be planted is known at once."""

from __future__ import annotations

import pytest

from tests.mutation_checks import FAULTS, ROOT, Fault


@pytest.mark.sqlite  # no database is asked
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_replaces_text_that_its_file_holds_once(fault: Fault):
    source = (ROOT / fault.file).read_text()
    assert [source.count(text) for text, _ in fault.edits] == [1] * len(fault.edits)
