#!/bin/sh
# Installs the servers that tests start for themselves, as Debian packages, without leaving one running or listening.
# Where it may not install, it names them; their tests then skip (and fail when CI is set).
set -eu
missing=""
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ] || missing="$missing rabbitmq-server"
command -v systemd-analyze >/dev/null || missing="$missing systemd"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing="$missing postgresql"
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
command -v promtool >/dev/null || missing="$missing prometheus" # checks the alert rules
php -m 2>/dev/null | grep -qx amqp || missing="$missing php-cli php-amqp" # a producer in another language
{ command -v chromium && command -v chromedriver; } >/dev/null || missing="$missing chromium chromium-driver" # sees the dashboard
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Tests against real servers are skipped until these are installed:$missing" >&2
    echo "    sudo apt-get install$missing" >&2
    exit 0
fi
echo "Installing Debian packages of servers that tests start for themselves:$missing"
# Debian starts what it installs, unless this program says no. It is ours only if it was not there before.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
# shellcheck disable=SC2086 # a list of words is meant
apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $missing >/dev/null
