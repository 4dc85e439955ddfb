"""Known vulnerabilities of the locked packages, by pip-audit: `make audit`, part of `make check`.

Exit status 1 where a package has one; 0 where none has, or where no advisory service can be
reached (PyPI's JSON API, then OSV), which is said in a line that begins with "not audited".
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).parent
LOCKS = ("build", "torch", "work")
LIMIT = 300  # seconds for one service
# Nobody answered: no name, no route, no such page, no time. Anything else is a finding or a fault.
UNREACHABLE = ("Failed to resolve", "ConnectionError", "Connection refused", "Max retries", "404")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Hashes and markers are for pip; an audit is about names and versions.
        pins = sorted(
            {
                f"{name}=={version.partition('+')[0]}"
                for lock in LOCKS
                for name, version in re.findall(
                    r"^([a-z0-9._-]+)==([^\s;\\]+)",
                    (HERE / f"{lock}.lock").read_text(),
                    re.MULTILINE,
                )
            }
        )
        listed = Path(folder) / "pins.txt"
        listed.write_text("\n".join(pins))
        reasons = []
        for service in ("pypi", "osv"):
            found, reason = audit(service, listed)
            if found is not None:
                report(found, service, len(pins))
            reasons.append(f"{service}: {reason}")
    print(f"not audited: no advisory service answers here ({'; '.join(reasons)})")


def audit(service: str, pins: Path) -> tuple[list[dict] | None, str]:
    """pip-audit's dependencies; None and why, where the service cannot be reached."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service]
    command += ["--requirement", str(pins), "--no-deps", "--disable-pip", "--format", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return None, f"no answer in {LIMIT} s"
    try:
        found = json.loads(done.stdout)["dependencies"]
        if all("skip_reason" in one for one in found):
            return None, "it knows none of the packages"
        return found, ""
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:160]
        if any(sign in done.stderr for sign in UNREACHABLE):
            return None, last
        sys.exit(f"pip-audit failed: {last}")


def report(found: list[dict], service: str, pins: int) -> NoReturn:
    """Print what was found and leave."""
    skipped = [one for one in found if "skip_reason" in one]
    bad = [(one, hole) for one in found for hole in one.get("vulns", [])]
    for one, hole in bad:
        fixed = ", ".join(hole["fix_versions"]) or "no release yet"
        print(f"{one['name']} {one['version']}: {hole['id']}, fixed in {fixed}")
    for one in skipped:
        print(f"not audited: {one['name']}: {one['skip_reason']}")
    print(f"audited with {service}: {pins - len(skipped)} packages, {len(bad)} known holes")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
