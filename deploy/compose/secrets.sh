#!/bin/sh
# Makes the secrets of the compose files in secrets/, once: a random password, and what contains it. The directory is for its
# owner alone; the files are readable, because a container reads them as another user.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
cd secrets
chmod -f u+w -- * || true # those of an earlier run
[ -e password ] || head -c 24 /dev/urandom | base64 | tr -d '/+=\n' >password
password=$(cat password)
printf 'redis://:%s@redis:6379/0' "$password" >redis-url
printf 'amqp://jobs:%s@rabbitmq:5672/' "$password" >rabbitmq-url
printf 'postgresql://jobs:%s@postgres/jobs' "$password" >postgres-url
printf 'appendonly yes\nappendfsync always\nmaxmemory-policy noeviction\nrequirepass %s\n' "$password" >redis.conf
printf 'default_user = jobs\ndefault_pass = %s\n' "$password" >rabbitmq.conf
chmod 0444 -- *
