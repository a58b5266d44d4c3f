# The main program of a box with a supervisor: fetches the program whose SHA-256
# is $1 from the machine listener, unless it is there, and becomes its supervisor.
# It tries for $2 seconds. The supervisor gets $3, if there is one, as its argument.
# Nothing of the agent's runs yet when the program is checked, so it may be kept
# where the agent can write.
hash=$1
argument=$3
until=$(($(date +%s) + $2))
dir=$HOME/.openinspect/program
program=$dir/$hash
is_whole() { [ "$(sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1)" = "$hash" ]; }
say() { echo "openinspect: $*" >&2; }

case $OPENINSPECT_CONTROL in
unix:*) set -- --unix-socket "${OPENINSPECT_CONTROL#unix:}" "http://control" ;;
*) set -- "$OPENINSPECT_CONTROL" ;;
esac
# The token goes through a pipe: arguments are seen by every process.
fetch() {
  mkdir -p "$dir" && rm -f "$dir"/* || return 1
  status=$(printf 'header = "Openinspect-Sandbox-Token: %s"\n' "$OPENINSPECT_TOKEN" |
    curl --config - --silent --show-error --compressed --connect-timeout 10 --max-time 100 \
      --output "$dir/new" --write-out '%{http_code}' "$@/supervisor/$hash" 2>"$dir/error")
  [ "$status" = 200 ] && return
  why="$(head -c 300 "$dir/error" 2>/dev/null)$([ "$status" = 000 ] || head -c 300 "$dir/new" 2>/dev/null)"
  return 1
}

command -v curl >/dev/null || { say "the image has no curl, with which the sandbox fetches its supervisor"; exit 1; }
wait=1
while ! is_whole "$program"; do
  why="what came was another program"
  if fetch "$@" && is_whole "$dir/new"; then
    chmod 755 "$dir/new" && mv "$dir/new" "$program" && continue
    why="it could not be kept in $dir"
  fi
  if [ "$(date +%s)" -ge "$until" ]; then
    say "the supervisor could not be fetched from the control plane at $OPENINSPECT_CONTROL: $why"
    exit 1
  fi
  sleep "$wait"
  [ "$wait" -ge 8 ] || wait=$((wait * 2))
done
rm -f "$dir/error"
exec "$program" supervise ${argument:+"$argument"}
