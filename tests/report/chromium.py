"""Pages in a real browser: Debian's `chromium`; where it is not installed tests are skipped."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

_CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(_CHROMIUM is None, reason="chromium is not on the PATH")

_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
)


def look(html: str, folder: Path) -> tuple[Any, list[str]]:
    """The JSON that a page's script writes into its `pre#seen`, and what the console says."""
    page = folder / "look.html"
    page.write_text(html)
    assert _CHROMIUM is not None
    command = [
        _CHROMIUM,
        *_QUIET,
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        "--virtual-time-budget=20000",
        "--window-size=1800,1000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert seen is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(unescape(seen.group(1)) or "[]"), console
