#!/bin/sh
# Runs the demonstration for $3 seconds: in the development environment $1 if it is there, else, with Python $2, in one
# that has what the demonstration needs and nothing else. There the core is not installed but named in a .pth file: the
# packages that build a wheel would be more to fetch than all that the demonstration needs.
set -eu
venv=$1
python=$2
seconds=$3
if [ ! -e "$venv/ready" ]; then
    venv=.venv-demo
    if [ ! -e "$venv/ready" ]; then
        echo "Making $venv with what jobs-core depends on, and Pillow for thumbnails: some 10 s, once."
        if "$python" -m pip --python "$python" --version >/dev/null 2>&1; then # pip 22.3 and later install from outside
            tools/venv.sh "$venv" "$python" --without-pip
            set -- "$python" -m pip --python "$venv/bin/python"
        else
            tools/venv.sh "$venv" "$python"
            set -- "$venv/bin/python" -m pip
        fi
        sed -n '/^dependencies = \[/,/^\]/s/^ *"\(.*\)",$/\1/p; s/^demo = \["\(.*\)"\]$/\1/p' core/pyproject.toml >"$venv/needs.txt"
        "$@" install -q --no-compile --disable-pip-version-check -c constraints.txt -r "$venv/needs.txt"
        packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        echo "$PWD/core/src" >"$packages/jobs-core.pth"
        # shellcheck disable=SC2016 # for the script to expand
        printf '#!/bin/sh\nexec "${0%%/*}/python" -m jobs_core "$@"\n' >"$venv/bin/jobsctl"
        chmod +x "$venv/bin/jobsctl"
        touch "$venv/ready"
    fi
fi
exec "$venv/bin/jobsctl" demo --seconds "$seconds"
