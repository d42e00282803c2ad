#!/bin/sh
# Entrypoint of the nodes in cluster.yml. A stream's replicas connect to the first address of a host name, so this script makes the
# address in the network that all nodes share the first one. Then it runs the given command, by the image's entrypoint if there is one.
name=$(hostname) tries=0 shared=
while [ -z "$shared" ] && [ $((tries += 1)) -le 100 ]; do
    for peer in rabbit-1 rabbit-2 rabbit-3; do
        [ "$peer" = "$name" ] || shared=${shared:-$(getent hosts "$peer" | sed 's/\.[0-9]* .*/./')}
    done
    [ -n "$shared" ] || sleep 0.1
done
{ grep -v "[[:space:]]$name\$" /etc/hosts; grep "^$shared.*[[:space:]]$name\$" /etc/hosts; grep "[[:space:]]$name\$" /etc/hosts; } |
    awk '!seen[$0]++' > "/tmp/hosts.$$"
cat "/tmp/hosts.$$" > /etc/hosts
rm "/tmp/hosts.$$"
[ $# -gt 0 ] || exit 0
command -v docker-entrypoint.sh > /dev/null && set -- docker-entrypoint.sh "$@"
exec "$@"
