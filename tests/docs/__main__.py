"""`python -m tests.docs [--search]`: write docs/passes, and search for missing examples (with --search for all)."""

from __future__ import annotations

import sys

from tests.docs import examples, pages


def main() -> None:
    """Find missing examples, drop those of passes that no longer exist, write the pages."""
    kept = {} if "--search" in sys.argv[1:] else examples.load()
    wanted: dict[str, examples.Example] = {}
    for key, item, owner, rules in pages.subjects():
        known = examples.given(key) or kept.get(key)
        if known is None or examples.shown(known, item) is None:
            known = examples.find(item, owner.name, rules)
            print(f"{key}: {'no example' if known is None else 'found an example'}", flush=True)
        if known is not None:
            wanted[key] = known
    examples.keep(wanted)
    pages.FOLDER.mkdir(parents=True, exist_ok=True)
    written = pages.write_all(wanted)
    for path in pages.FOLDER.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (pages.FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
