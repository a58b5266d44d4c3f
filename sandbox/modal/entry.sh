# The command of a sandbox: runs the main program "$@" as the user agent, with
# the environment that OPENINSPECT_BOX_ENV exports. It ends with it, unless it
# was told by SIGUSR1 that the box is parked: then it stays for as long as saving
# the filesystem may take.
umask 022
told=/tmp/.openinspect-box
rm -rf "$told" # the filesystem may be that of another box
parked= child=
trap 'parked=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' USR1
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT HUP
eval "$OPENINSPECT_BOX_ENV"
unset OPENINSPECT_BOX_ENV
if [ "$(id -u)" = 0 ] && id agent >/dev/null 2>&1; then
  setpriv --reuid=agent --regid=agent --init-groups --no-new-privs -- "$@" &
else
  "$@" &
fi
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
