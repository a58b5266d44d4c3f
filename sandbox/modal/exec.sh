# Runs the command "$@" as the user agent, without the variables of the main program.
# At its end it says on both outputs that all is said, also when the command was ended
# with all of its process group; see output.go.
trap : HUP INT TERM # not inherited by the command
for OPENINSPECT_NAME in $OPENINSPECT_BOX_ENV; do
  unset "OPENINSPECT_BOX_ENV_$OPENINSPECT_NAME"
done
unset OPENINSPECT_BOX_ENV OPENINSPECT_NAME
(
  if [ "$(id -u)" = 0 ] && id agent >/dev/null 2>&1; then
    exec setpriv --reuid=agent --regid=agent --init-groups --no-new-privs -- "$@"
  fi
  exec "$@"
)
set -- "$?"
printf '\nopeninspect end %s\n' "$OPENINSPECT_EXEC"
printf '\nopeninspect end %s\n' "$OPENINSPECT_EXEC" >&2
exit "$1"
