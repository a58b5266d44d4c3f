# The command of a sandbox: runs the main program "$@" as the user agent, with
# the variables that OPENINSPECT_BOX_ENV lists. It ends with it, unless it was
# told by SIGUSR1 that the box is parked: then it stays for as long as saving the
# filesystem may take.
umask 022
told=/run/openinspect-box # where nobody else can write
rm -rf "$told" "$told.new" # the filesystem may be that of another box
parked= child=
trap 'parked=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' USR1
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT HUP
(
  unset told parked child
  for OPENINSPECT_NAME in $OPENINSPECT_BOX_ENV; do
    eval "export $OPENINSPECT_NAME=\"\$OPENINSPECT_BOX_ENV_$OPENINSPECT_NAME\""
    unset "OPENINSPECT_BOX_ENV_$OPENINSPECT_NAME"
  done
  unset OPENINSPECT_BOX_ENV OPENINSPECT_NAME
  if [ "$(id -u)" = 0 ] && id agent >/dev/null 2>&1; then
    exec setpriv --reuid=agent --regid=agent --init-groups --no-new-privs -- "$@"
  fi
  exec "$@"
) &
child=$!
echo "$$ $child" >"$told.new" && mv "$told.new" "$told"
while :; do
  wait "$child"
  status=$?
  kill -0 "$child" 2>/dev/null || break # wait also returns for a signal
done
minutes=0
while [ -n "$parked" ] && [ "$minutes" -lt 30 ]; do
  sleep 60
  minutes=$((minutes + 1))
done
exit "$status"
