#!/bin/sh
# Runs the demonstration for $3 seconds: in the development environment $1 if it is there, else, with Python $2, in one
# that has what the demonstration needs and nothing else.
set -eu
venv=$1
python=$2
seconds=$3
if [ ! -e "$venv/ready" ]; then
    venv=.venv-demo
    if [ ! -e "$venv/ready" ]; then
        echo "Making $venv with jobs-core, what it depends on, and Pillow for thumbnails: some 15 s, once."
        if "$python" -m pip --python "$python" --version >/dev/null 2>&1; then # pip 22.3 and later install from outside
            tools/venv.sh "$venv" "$python" --without-pip
            set -- "$python" -m pip --python "$venv/bin/python"
        else
            tools/venv.sh "$venv" "$python"
            set -- "$venv/bin/python" -m pip
        fi
        "$@" install -q --no-compile --disable-pip-version-check -c constraints.txt -e './core[demo]'
        touch "$venv/ready"
    fi
fi
exec "$venv/bin/jobsctl" demo --seconds "$seconds"
