"""Writes src/fedspill/cli/listing.json from the catalogue and the zoo; `--check` fails if it is stale.

`python -m benchmarks.documents.listings`
"""

import sys

from fedspill.cli import listing


def main() -> None:
    """The command."""
    text = listing.written()
    if "--check" in sys.argv[1:]:
        if not listing.FILE.is_file() or listing.FILE.read_text(encoding="utf-8") != text:
            sys.exit(f"{listing.FILE.name} is stale: run `make docs`")
    else:
        listing.FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
