# Kills every process that has OPENINSPECT_EXEC=$1 in its environment, until there is none.
while :; do
  found=
  for process in /proc/[0-9]*; do
    if grep -qzx "OPENINSPECT_EXEC=$1" "$process/environ" 2>/dev/null; then
      # One that has ended and was not waited for has no environment.
      kill -KILL "${process#/proc/}" 2>/dev/null && found=yes
    fi
  done
  [ -n "$found" ] || exit 0
  sleep 0.02
done
