#!/bin/sh
# Makes the virtual environment $1 with Python $2, with everything the project needs, at the pinned versions.
set -eu
venv=$1
python=$2

echo "Making $venv with the distributions of this tree and what tests and linters need, at the versions of constraints.txt."
"${0%/*}/venv.sh" "$venv" "$python"
members=""
for member in core plugins/*/ examples/plugin_*/; do
    [ -f "$member/pyproject.toml" ] && members="$members -e ./${member%/}"
done
# shellcheck disable=SC2086 # a list of words is meant
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -r requirements-dev.txt $members
# The dashboard's tests need the script in this package, axe-core, and not the browsers that it depends on.
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps axe-playwright-python
touch "$venv/ready"
