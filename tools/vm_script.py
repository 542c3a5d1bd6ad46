"""Write what a reader of docs/vm.md types into one script, with checks of what the page promises: vm_script.py ROOT APPLICATION

tools/vm-steps.sh runs the script in a machine of its own.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "vm.md"

SERVES = """
echo "vm: systemctl enable returned when the workers served"
test "$(systemctl is-enabled shop-jobs)" = enabled
curl() { python3 -c "import urllib.request as r, sys; print(r.urlopen(sys.argv[1]).read().decode())" "$1"; }
test "$(curl http://127.0.0.1:9000/readyz)" = ok
runuser -u shop -- .venv/bin/python shop.py
until journalctl -u shop-jobs --no-pager | grep -q "to ada@example.com: Your order is on its way"; do sleep 0.2; done
echo "vm: a job ran, and the journal has what it printed"
echo "JOBS_POOLS__DEFAULT__WORKERS='3'" >>/etc/default/shop-jobs
systemctl restart shop-jobs
"""

EVERY_DAY = """
runuser -u shop -- .venv/bin/jobsctl status | grep -q "^3 workers"
runuser -u shop -- .venv/bin/jobsctl check --show | grep "JOBS_POOLS__DEFAULT__WORKERS"
runuser -u shop -- .venv/bin/jobsctl topics
runuser -u shop -- .venv/bin/jobsctl dead list
runuser -u shop -- .venv/bin/jobsctl quiet
runuser -u shop -- .venv/bin/jobsctl quiet --off
echo "vm: commands have the variables of the service"
"""

DEPLOYED = """
echo "vm: reload took the new code"
cp tasks.py tasks.before
echo "import no_such_module" >>tasks.py
! runuser -u shop -- .venv/bin/jobsctl check >/dev/null
! systemctl reload shop-jobs 2>/dev/null
test "$(systemctl is-active shop-jobs)" = active
runuser -u shop -- .venv/bin/jobsctl status | grep -q "is serving"
mv tasks.before tasks.py
echo "vm: check and reload refused code that cannot be imported; the old code serves"
systemctl restart shop-jobs
sqlite3 /var/lib/shop-jobs/jobs.db ".backup /var/backups/jobs.db"
test -s /var/backups/jobs.db
systemctl stop shop-jobs
"""


def main(root: Path, application: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    once, unit_secrets, unit, every_day, deploy = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    (configuration,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert "git pull" in deploy
    assert '".backup /var/backups/jobs.db"' in text
    for file in application.glob("*.py"):
        shutil.copy(file, root / "opt")
    (root / "opt" / "jobs.toml").write_text(configuration)
    code = "cp /opt/*.py /opt/jobs.toml .\n"
    typed = [once, code, unit_secrets, unit, SERVES, every_day, EVERY_DAY, re.sub("(?m)^git pull.*\n", "", deploy), DEPLOYED]
    (root / "typed").write_text("export DEBIAN_FRONTEND=noninteractive\napt-get -qq update\n" + "".join(typed))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
