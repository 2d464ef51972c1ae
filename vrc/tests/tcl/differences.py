"""The tests that are known to fail, read from where people read of them: docs/differences.md.

They stand there in blocks of their own, below the reason, one `unit: test` a line, and `*` at a line's end stands for the rest of the name:

    ```tests
    multi: Some test of unit/multi
    ```
"""

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "differences.md"


class Differences:
    """Each test that is excused, with the heading that it stands under."""

    def __init__(self, text):
        self.reasons = []
        heading, inside = "", False
        for line in text.splitlines():
            if line.startswith("#") and not inside:
                heading = line.lstrip("#").strip()
            elif line.startswith("```"):
                inside = line.strip() == "```tests"
            elif inside and ": " in line:
                unit, name = line.strip().split(": ", 1)
                pattern = re.escape(name).removesuffix(r"\*") + (".*" if name.endswith("*") else "")
                self.reasons.append((unit, name, re.compile(pattern), heading))

    def reason(self, unit, test):
        """Why a test fails, or None if nobody knows."""
        return next((why for of, _, pattern, why in self.reasons if of == unit and pattern.fullmatch(test)), None)

    def unneeded(self, lost, units):
        """What is listed for these units, but passes."""
        return [
            f"{unit}: {name}"
            for unit, name, pattern, _ in self.reasons
            if unit in units and not any(of == unit and pattern.fullmatch(test) for of, test in lost)
        ]


def documented():
    return Differences(DOCUMENT.read_text())
