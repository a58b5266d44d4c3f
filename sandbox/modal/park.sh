# Ends the main program: tells entry.sh that the box is parked, which passes on
# SIGTERM, and kills what is left of it after $1 tenths of a second.
told=/run/openinspect-box
tenths=0
until [ -e "$told" ] || [ "$tenths" -ge 50 ]; do # a box that has just begun
  sleep 0.1
  tenths=$((tenths + 1))
done
read -r entry child <"$told" || exit 1
kill -USR1 "$entry" || exit 1
tenths=0
while kill -0 "$child" 2>/dev/null; do
  [ "$tenths" -lt "$1" ] || kill -KILL "$child" 2>/dev/null
  sleep 0.1
  tenths=$((tenths + 1))
done
