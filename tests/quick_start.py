"""Prints the first Python code of the README."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"

if __name__ == "__main__":
    print(re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1])
