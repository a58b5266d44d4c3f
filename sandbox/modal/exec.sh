# Runs the command "$@" as the user agent, without the variables of the main program.
unset OPENINSPECT_BOX_ENV
if [ "$(id -u)" = 0 ] && id agent >/dev/null 2>&1; then
  exec setpriv --reuid=agent --regid=agent --init-groups --no-new-privs -- "$@"
fi
exec "$@"
