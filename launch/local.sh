#!/usr/bin/env bash
# Runs main on this machine, in one process or, to try out what several hosts do, in several.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/local.sh [OPTION...] -- ARGUMENT OF batnet_jax.main...

  --processes=N   start N processes on the CPU, which take part in one run; default 1
  --devices=N     give each process N fake CPU devices
  --port=PORT     the port at which the processes find each other; default 12321
  --dry-run       prints every command, runs none
  --help

Makes .venv if it does not exist. Of several processes the first writes to the terminal, the others to
files whose names are printed. If one fails, the others are stopped.
exit status: main's, of the process that failed first; 2 for a mistake; 130 interrupted, 143 terminated
TEXT
}

readonly MISTAKE=2 GRACE=30 # seconds to save in
PROCESSES=1 DEVICES='' PORT=12321 DRY_RUN='' MAIN=()
STARTED=0 LOGS=''

mistake() {
  printf 'error: %s\n' "$*" >&2
  exit "$MISTAKE"
}

# A whole number from 1 on.
count() {
  if [[ ! $2 =~ ^[1-9][0-9]{0,4}$ ]]; then mistake "$1=$2: give a whole number from 1"; fi
  printf '%s' "$2"
}

parse() {
  while (($#)); do
    case $1 in
      --processes=*) PROCESSES=$(count --processes "${1#*=}") ;;
      --devices=*) DEVICES=$(count --devices "${1#*=}") ;;
      --port=*) PORT=$(count --port "${1#*=}") ;;
      --dry-run) DRY_RUN=yes ;;
      --help | -h) usage && exit 0 ;;
      --)
        MAIN=("${@:2}")
        break
        ;;
      *) mistake "unknown option '$1': see launch/local.sh --help; arguments of main go after --" ;;
    esac
    shift
  done
  if ((${#MAIN[@]} == 0)); then mistake "no arguments of main: give -- --config=configs/demo.py"; fi
}

call() {
  if [[ $DRY_RUN ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# The environment of process $1, as arguments of `env`; launch/README.md has a table of the names.
environment() {
  if [[ $DEVICES ]] || ((PROCESSES > 1)); then echo JAX_PLATFORMS=cpu; fi
  if [[ $DEVICES ]]; then
    echo "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES"
  fi
  if ((PROCESSES > 1)); then
    echo BATNET_DISTRIBUTED=1
    echo "BATNET_COORDINATOR=localhost:$PORT"
    echo "BATNET_NUM_PROCESSES=$PROCESSES"
    echo "BATNET_PROCESS_ID=$1"
  fi
}

start() {
  local variables=() variable
  while read -r variable; do variables+=("$variable"); done < <(environment "$1")
  set -- env ${variables[@]+"${variables[@]}"} .venv/bin/python -m batnet_jax.main "${MAIN[@]}"
  if [[ $DRY_RUN ]]; then
    call "$@"
  elif ((PROCESSES == 1)); then
    exec "$@" # so that main itself hears a ctrl-C
  elif ((STARTED == 0)); then
    "$@" &
    STARTED=1
  else
    "$@" >"$LOGS/process_$STARTED.log" 2>&1 &
    STARTED=$((STARTED + 1))
  fi
}

# The status of the first that fails, or 0 when all have ended well.
await() {
  local status left=$STARTED
  while ((left--)); do
    status=0
    wait -n || status=$?
    if ((status)); then return "$status"; fi
  done
}

# Nobody stays behind: SIGTERM, with which main saves and ends, then SIGKILL.
stop_children() {
  local status=$? deadline=$((SECONDS + GRACE)) children
  trap '' INT TERM HUP
  mapfile -t children <<<"$(jobs -p)" # bash knows a process from its first moment on
  if [[ ${children[0]} ]]; then
    kill "${children[@]}" 2>/dev/null || true
    while kill -0 "${children[@]}" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
    kill -KILL "${children[@]}" 2>/dev/null || true
  fi
  exit "$status"
}

main() {
  parse "$@"
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  call make --silent .venv/.test || mistake "cannot make .venv: see the message above"
  if ((PROCESSES == 1)); then start 0 && return; fi
  trap stop_children EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if [[ ! $DRY_RUN ]]; then
    LOGS=$(mktemp -d)
    echo "local: the other processes write to $LOGS/process_*.log" >&2
  fi
  local process
  for ((process = 0; process < PROCESSES; process++)); do start "$process"; done
  await
}

main "$@"
