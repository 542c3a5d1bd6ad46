#!/bin/sh
# Runs the tests of jobs-django on every supported pair of Python and Django whose Python is on the machine; on Django 6
# also Django's own tests of its task framework. Arguments choose pairs: tools/django-matrix.sh 3.12:6.0
set -u
pairs=${*:-3.10:4.2 3.10:5.2 3.11:4.2 3.12:5.2 3.12:6.0 3.13:5.2 3.13:6.1}
status=0
for pair in $pairs; do
    python=${pair%%:*}
    django=${pair##*:}
    if ! found=$(tools/find-python.sh "$python"); then
        echo "python $python, django $django: this Python is not on this machine"
        continue
    fi
    venv=.venv-django-$python-$django
    log=$venv.log
    [ -x "$venv/bin/python" ] || "$found" -m venv "$venv"
    grep -iv '^django==' constraints.txt >"$venv/constraints.txt"
    if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check -c "$venv/constraints.txt" \
        "django~=$django.0" 'psycopg[binary]' pytest-timeout hypothesis -e "./core[reload]" -e ./plugins/django_loader -e ./plugins/redis_backend >"$log" 2>&1; then
        echo "python $python, django $django: cannot be installed, see $log"
        status=1
        continue
    fi
    DJANGO_TEST_DATABASES="sqlite postgresql" "$venv/bin/python" -m pytest plugins/django_loader -q >"$log" 2>&1 || status=1
    echo "python $python, django $("$venv/bin/python" -m django --version): $(tail -n 1 "$log")"
    case $django in
    6.*)
        "$venv/bin/python" plugins/django_loader/tests/djangos_own/run.py >>"$log" 2>&1 || status=1
        echo "    Django's own tests of django.tasks: $(tail -n 1 "$log")"
        ;;
    esac
done
exit $status
