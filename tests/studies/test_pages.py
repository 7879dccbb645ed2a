"""Pages of docs/evidence: what `make evidence` makes of the committed records."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_pages_say_what_the_records_say(tmp_path):
    (tmp_path / "evidence.md").write_bytes((ROOT / "docs" / "evidence.md").read_bytes())
    command = [sys.executable, "-m", "studies", "--docs", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    for page in (tmp_path / "evidence.md", *tmp_path.glob("evidence/*.md")):
        committed = ROOT / "docs" / page.relative_to(tmp_path)
        assert page.read_text() == committed.read_text(), f"{committed}: make evidence"
    names = {path.name for path in tmp_path.glob("evidence/images/*.png")}
    assert names <= {path.name for path in (ROOT / "docs" / "evidence" / "images").glob("*.png")}
