"""``IN`` with integers that the column cannot hold: they match no row.

The ids that a form or an action of the admin sends go into such a query before they are checked. Django leaves integers
out of range out of ``=`` and its siblings, not out of ``IN``, and SQLite then raises OverflowError.
"""

from __future__ import annotations

from typing import Any

from django.db.models import IntegerField
from django.db.models.lookups import In


@IntegerField.register_lookup
class IntegerIn(In):
    def process_rhs(self, compiler: Any, connection: Any) -> Any:
        if self.rhs_is_direct_value():
            low, high = connection.ops.integer_field_range(self.lhs.output_field.get_internal_type())
            self.rhs = [value for value in self.rhs if not isinstance(value, int) or low <= value <= high]
        return super().process_rhs(compiler, connection)
