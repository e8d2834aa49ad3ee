"""What this machine can run: `jointrt doctor`."""

from __future__ import annotations

import sys

from .app import app


@app.command()
def doctor() -> None:
    """Show versions, devices, providers and bundles, and whether each can be used."""
    from ..runtime.doctor import examine, print_report

    report = examine()
    print_report(report)
    sys.exit(0 if report.usable else 2)
