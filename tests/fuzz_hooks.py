"""What schemathesis cannot read from the document. It loads this file by ``SCHEMATHESIS_HOOKS``."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """No cursor among what must be accepted: one is any string to the document, and to the gateway what it gave."""
    return not (case.meta and case.meta.generation.mode.is_positive and {"cursor", "after"} & set(case.query or {}))
