"""The tests that are known to fail, read from where people read of them: docs/differences.md.

They stand there in blocks of their own, below the reason, one `unit: test` a line, and `*` at a line's end stands for the rest of the name:

    ```tests
    multi: Some test of unit/multi
    ```

Those in a block that begins with "```tests hang" are not even begun: nothing that comes after them in their unit would be.
"""

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "differences.md"


class Differences:
    """Each test that is excused, with the heading that it stands under."""

    def __init__(self, text):
        self.reasons = []
        # Unit and test.
        self.hanging = []
        heading, inside, hang = "", False, False
        for line in text.splitlines():
            if line.startswith("#") and not inside:
                heading = line.lstrip("#").strip()
            elif line.strip().startswith("```"):
                inside, hang = line.strip().startswith("```tests"), line.strip() == "```tests hang"
            elif inside and ": " in line:
                unit, name = line.strip().split(": ", 1)
                pattern = re.escape(name).removesuffix(r"\*") + (".*" if name.endswith("*") else "")
                self.reasons.append((unit, name, re.compile(pattern), heading))
                if hang:
                    self.hanging.append((unit, name))

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
