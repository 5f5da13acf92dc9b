#!/usr/bin/env bash
# Trains on a Cloud TPU VM or a slice of several hosts. launch/README.md is the runbook.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/tpu_vm.sh VERB --zone=ZONE [OPTION...] [-- ARGUMENT OF batnet_jax.main...]

verbs
  plan     compiles the run for --type on this computer, without a machine: memory, time, cost
  create   creates the machine and leaves it running, billed until `delete`
  setup    copies this package to all hosts and installs it, with constraints.txt
  train    starts main on all hosts and waits for its end; the machine stays
  eval     the same with --mode=eval
  embed    the same with --mode=embed: all hosts embed images into one folder
  run      create, setup, train, delete; again after a preemption; deletes on failure and ctrl-C too
  logs     follows the log of a host
  status   what the machine and the run on it are doing
  delete   deletes the machine, and checks that it is gone

options (each may be given with every verb)
  --zone=ZONE        needed, but for plan
  --type=TYPE        of the accelerator, such as v4-8 or v4-32; needed by plan, create and run
  --name=NAME        of the machine; default batnet
  --project=ID       default: gcloud's
  --version=VERSION  of the TPU software; default by --type
  --spot             cheaper, may be preempted
  --queued           request a queued resource, and wait for it
  --wait=MINUTES     how long to wait for a queued resource; default 60
  --data=gs://DIR    setup copies it to data/manual on each host
  --attempts=N       run: machines to try at most; default 10
  --worker=N         logs: the host; default 0
  --price=PRICE      plan: the price of a chip for an hour
  --dry-run          prints every command, runs none
  --help

environment
  JAX_DEFAULT_MATMUL_PRECISION  passed to main
  BATNET_PYTHON   the Python that plan uses; default .venv/bin/python, or else python3
  BATNET_BACKOFF  seconds before a first retry, doubled for each further one up to 600; default 30
  BATNET_POLL     seconds between two looks at a run or a queue; default 30

exit status
  0 success   1 failure   2 a mistake on the command line (main's too)   3 no quota or no capacity
  4 the machine may still be there, and billed   5 Google or the hosts cannot be reached
  130 interrupted   143 preempted or terminated: the same command resumes
TEXT
}

readonly FAILURE=1 MISTAKE=2 NO_CAPACITY=3 STILL_THERE=4 UNREACHABLE=5 PREEMPTED=143
readonly TRIES=4 # of one ssh, copy or deletion
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BACKOFF=${BATNET_BACKOFF:-30} POLL=${BATNET_POLL:-30}
# A host that vanishes closes no connection: ssh itself must notice.
readonly PATIENCE=(-oConnectTimeout=30 -oServerAliveInterval=30 -oServerAliveCountMax=4)

NAME=batnet ZONE='' TYPE='' VERSION='' PROJECT='' DATA='' WAIT=60 ATTEMPTS=10 WORKER=0 PRICE=''
SPOT='' QUEUED='' DRY_RUN='' MAIN=()
DOOMED=''      # set while a machine of ours must not outlive this script
CREATING=''    # set while gcloud creates: the machine may turn up after a look that misses it
PRETENDED=NONE # the state of the machine that a dry run imagines
LOCATION=()    # --zone and --project
SCRATCH=''

say() { printf '%s\n' "tpu_vm: $*" >&2; }
mistake() {
  printf 'error: %s\n' "$*" >&2
  exit "$MISTAKE"
}

# --- commands ------------------------------------------------------------------------------------

# A command, or in a dry run its text. In the background, because bash runs a trap only between two
# foreground commands, and a ctrl-C must not wait for minutes of installing; in a process group of
# its own, to be stopped as a whole; without the terminal, for nobody may be there to answer.
call() {
  if [[ $DRY_RUN ]]; then
    printf '%q ' "$@" >&3
    printf '\n' >&3
    return 0
  fi
  local status=0
  set -m
  "$@" </dev/null &
  set +m
  wait $! || status=$?
  return "$status"
}

pause() {
  if [[ ! $DRY_RUN ]]; then call sleep "$1"; fi
}

# The pause before retry 1, 2, ...
back_off() {
  local seconds=$((BACKOFF << ($1 < 10 ? $1 - 1 : 9)))
  pause $((seconds < 600 ? seconds : 600))
}

# A gcloud command on which a dropped connection is retried; ssh ends with 255 then, gcloud itself
# with 1. What it runs on the hosts may therefore run twice, and ends with neither.
persist() {
  local try status
  for ((try = 1; ; try++)); do
    status=0
    call "$@" || status=$?
    if ((status != 255 && status != 1)); then return "$status"; fi
    if is_gone; then
      say "'$NAME' was taken away"
      return "$PREEMPTED"
    fi
    if ((try == TRIES)); then return "$UNREACHABLE"; fi
    say "no connection to $NAME (try $try of $TRIES)"
    back_off "$try"
  done
}

# Runs a text in a shell of one host or of all; both gcloud and ssh pass it on as it is.
on_workers() {
  persist gcloud compute tpus tpu-vm ssh "$NAME" "${LOCATION[@]}" --worker="$1" --quiet \
    "${PATIENCE[@]/#/--ssh-flag=}" --command="$2"
}

# --- the machine ---------------------------------------------------------------------------------

# A state in gcloud's words; NONE: there is no such thing; UNKNOWN: gcloud could not say.
state_of() {
  local kind=$1 format=$2 pretended=$3 state
  set -- gcloud compute tpus "$kind" describe "$NAME" "${LOCATION[@]}" --format="value($format)"
  if [[ $DRY_RUN ]]; then
    call "$@"
    echo "${pretended:-NONE}"
  elif state=$("$@" 2>"$SCRATCH/describe"); then
    echo "${state:-UNKNOWN}"
  elif grep -qiE 'NOT_FOUND|not found' "$SCRATCH/describe"; then
    echo NONE
  else
    cat "$SCRATCH/describe" >&2
    echo UNKNOWN
  fi
}
node_state() { state_of tpu-vm state "$PRETENDED"; }
queue_state() { state_of queued-resources state.state "${QUEUED:+${PRETENDED/READY/ACTIVE}}"; }

# Whether the machine was taken away. A state that gcloud cannot tell is no reason to give it up.
is_gone() {
  case $(node_state) in
    NONE | PREEMPTED | TERMINATED | STOPPING | STOPPED | DELETING) true ;;
    *) false ;;
  esac
}

default_version() {
  case $TYPE in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) mistake "no TPU software is known here for --type=$TYPE: give --version=VERSION" ;;
  esac
}

# Whoever has a machine of this name shall keep it.
refuse_existing() {
  local node queue
  node=$(node_state) queue=$(queue_state)
  if [[ $node$queue == *UNKNOWN* ]]; then
    say "cannot ask gcloud for $NAME: see its message above"
    return "$FAILURE"
  fi
  if [[ $node$queue != NONENONE ]]; then
    mistake "'$NAME' is already in $ZONE: give another --name, or delete it with: $(myself delete)"
  fi
}

# After a failure nothing is left; after a success the caller decides whether the machine is doomed.
create_machine() {
  local status=0 command=(gcloud compute tpus)
  if [[ $QUEUED ]]; then
    command+=(queued-resources create "$NAME" --node-id="$NAME" --runtime-version="$VERSION")
  else
    command+=(tpu-vm create "$NAME" --version="$VERSION")
  fi
  command+=("${LOCATION[@]}" --accelerator-type="$TYPE" --quiet)
  if [[ $SPOT ]]; then command+=(--spot); fi
  say "creating '$NAME' ($TYPE) in $ZONE: this takes minutes"
  DOOMED=yes CREATING=yes
  call "${command[@]}" 2>"$SCRATCH/create" || status=$?
  cat "$SCRATCH/create" >&2
  if ((status == 0)); then
    CREATING=''
    PRETENDED=READY
    if [[ $QUEUED ]]; then await_queue || status=$?; fi
  elif grep -qiE 'ALREADY_EXISTS|already exists' "$SCRATCH/create"; then
    DOOMED='' # somebody else was quicker
    mistake "'$NAME' is already in $ZONE: give another --name"
  elif grep -qiE 'quota|RESOURCE_EXHAUSTED|capacity|stockout' "$SCRATCH/create"; then
    status=$NO_CAPACITY
  elif grep -qiE 'timed out|timeout|DEADLINE_EXCEEDED|UNAVAILABLE' "$SCRATCH/create"; then
    status=$UNREACHABLE
  else
    status=$FAILURE
  fi
  if ((status != UNREACHABLE)); then CREATING=''; fi # gcloud's word is final
  if ((status != 0)); then
    say "no machine: see the message above"
    delete_machine || return
  fi
  return "$status"
}

await_queue() {
  local state deadline=$((SECONDS + WAIT * 60))
  while true; do
    state=$(queue_state)
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | NONE)
        say "the queued resource is $state"
        return "$NO_CAPACITY"
        ;;
    esac
    if ((SECONDS >= deadline)); then
      say "the queued resource is $state after $WAIT minutes (--wait)"
      return "$NO_CAPACITY"
    fi
    pause "$POLL"
  done
}

# Success means that gcloud was asked, and knows neither machine nor request any more.
delete_machine() {
  local try node queue looks=1
  if [[ $CREATING ]]; then looks=2; fi
  for ((try = 0; try <= TRIES; try++)); do
    if ((try)); then back_off "$try"; fi
    node=$(node_state) queue=$(queue_state)
    if [[ $queue != NONE ]]; then
      call gcloud compute tpus queued-resources delete "$NAME" "${LOCATION[@]}" --force --quiet || true
    fi
    # A machine that was queued for goes with its request, and cannot be deleted without.
    if [[ $node != NONE && $queue =~ ^(NONE|UNKNOWN)$ ]]; then
      call gcloud compute tpus tpu-vm delete "$NAME" "${LOCATION[@]}" --quiet || true
    fi
    PRETENDED=NONE
    if [[ $(node_state)$(queue_state) == NONENONE ]] && ((--looks == 0)); then
      DOOMED='' CREATING=''
      say "'$NAME' is gone from $ZONE: it is not billed any more"
      return 0
    fi
  done
  say "CANNOT TELL WHETHER '$NAME' IS DELETED: IT MAY BE BILLED. Try again: $(myself delete)"
  DOOMED=''
  return "$STILL_THERE"
}

# The command line of another verb, to be shown.
myself() {
  printf 'launch/tpu_vm.sh %s --name=%q' "$1" "$NAME"
  printf ' %q' "${LOCATION[@]}"
}

# --- the run on it -------------------------------------------------------------------------------

setup() {
  local archive=$SCRATCH/batnet_jax.tgz
  local status=0
  call tar -czf "$archive" -C "$ROOT" --exclude=__pycache__ \
    batnet_jax configs pyproject.toml constraints.txt README.md LICENSE || return "$FAILURE"
  persist gcloud compute tpus tpu-vm scp "$archive" "$NAME:batnet_jax.tgz" "${LOCATION[@]}" \
    --worker=all --quiet "${PATIENCE[@]/#/--scp-flag=}" || return
  on_workers all "$(setup_text)" || status=$?
  if ((status == 9)); then
    say "installing failed: see the message above"
    return "$FAILURE"
  fi
  return "$status"
}

# The images of Cloud TPU have Python 3.10, and this package needs a newer one: uv brings it.
# It ends with 9 where anything in it fails: 1 and 255 are a dropped connection's. (As the left side
# of `||` it would not stop at a failure.)
setup_text() {
  cat <<'TEXT'
( set -e; mkdir -p ~/batnet_jax; tar -xzf ~/batnet_jax.tgz -C ~/batnet_jax; cd ~/batnet_jax
export PATH="$HOME/.local/bin:$PATH" PIP_BREAK_SYSTEM_PACKAGES=1
command -v uv >/dev/null || python3 -m pip install --user --quiet uv
test -x .venv/bin/python || uv venv --quiet --python 3.12 .venv
uv pip install --quiet --python .venv/bin/python -c constraints.txt -e '.[tpu]'
TEXT
  if [[ $DATA ]]; then
    printf 'mkdir -p data/manual; gcloud storage rsync --recursive %q data/manual\n' "$DATA"
  fi
  # shellcheck disable=SC2016  # for the shell there
  echo ') ; if [ $? -ne 0 ]; then exit 9; fi'
}

# What products of float32 numbers ask for (docs/performance.md), if this computer's user has said.
precision() {
  local asked=${JAX_DEFAULT_MATMUL_PRECISION:-}
  if [[ $asked ]]; then printf 'JAX_DEFAULT_MATMUL_PRECISION=%q ' "$asked"; fi
}

# Starts main so that it outlives the connection; a second start with the same id does nothing, for
# the first may have been heard although its connection broke. Waits until the run has its lock, or
# else a look could come before it.
start_text() {
  local id=$1 main
  main=$(printf '%q ' "${MAIN[@]}")
  cat <<TEXT
mkdir -p ~/batnet_run; cd ~/batnet_run || exit 9
if [ "\$(cat id 2>/dev/null)" = $id ]; then exit 0; fi
if ! flock -n lock true; then echo 'another run is in progress here' >&2; exit 10; fi
rm -f status; echo $id >id
setsid nohup flock -o lock bash -c $(printf '%q' "cd ~/batnet_jax
status=0
BATNET_DISTRIBUTED=1 $(precision).venv/bin/python -m batnet_jax.main $main || status=\$?
echo \$status >~/batnet_run/status") >log 2>&1 </dev/null &
for _ in \$(seq 50); do
  if [ -s status ] || ! flock -n lock true; then exit 0; fi
  sleep 0.1
done
TEXT
}

# The lock goes with its process, so that a host that was restarted does not look busy. A status
# that is still empty is being written, and a lock that is free may be about to be taken.
# shellcheck disable=SC2016  # for the shell there
readonly LOOK='cd ~/batnet_run 2>/dev/null || { echo run:none; exit 0; }
for pause in 1 0; do
  if [ -s status ] || ! flock -n lock true; then break; fi
  if [ $pause = 0 ]; then echo run:lost; exit 0; fi
  sleep $pause
done
echo "run:$(grep . status 2>/dev/null || echo running)"'

# The exit status of all hosts' runs together, or a word: of what ended, the worst counts.
verdict() {
  local states wanted
  states=$(grep -oE 'run:([0-9]+|[a-z]+)' <<<"$1" || true)
  for wanted in "$MISTAKE" "$PREEMPTED"; do
    if grep -qx "run:$wanted" <<<"$states"; then
      echo "$wanted"
      return
    fi
  done
  grep -xE 'run:[1-9][0-9]*' <<<"$states" | head -1 | cut -d: -f2 | grep . && return
  for wanted in lost none running; do
    if grep -qx "run:$wanted" <<<"$states"; then
      echo "$wanted"
      return
    fi
  done
  if grep -qx run:0 <<<"$states"; then echo 0; else echo none; fi
}

# Starts main on all hosts and waits; ends with main's exit status, or 143 if the machine went away.
train() {
  local status=0 state
  on_workers all "$(start_text "$$-$RANDOM")" || status=$?
  if ((status == 10)); then say "another run is in progress on '$NAME': $(myself status)"; fi
  if ((status == 9 || status == 10)); then return "$FAILURE"; fi
  if ((status)); then return "$status"; fi
  say "started on '$NAME', continues there even if this script is stopped; its log: $(myself logs)"
  while true; do
    status=0
    on_workers all "$LOOK" >"$SCRATCH/states" || status=$?
    if ((status)); then return "$status"; fi
    state=$(verdict "$(cat "$SCRATCH/states")")
    if [[ $DRY_RUN ]]; then state=0; fi # nothing has been looked at
    case $state in
      running) pause "$POLL" ;;
      lost | none)
        say "a host of '$NAME' was restarted during the run"
        return "$PREEMPTED"
        ;;
      *) break ;;
    esac
  done
  if ((state == 0 || state == MISTAKE || state == PREEMPTED)); then
    show_log || true
    return "$state"
  fi
  pause "$POLL" # hosts whose neighbour is being preempted fail before gcloud knows why
  if is_gone; then return "$PREEMPTED"; fi
  if on_workers all "$LOOK" >"$SCRATCH/states"; then # and what they end with may say more
    state=$(verdict "$(cat "$SCRATCH/states")")
  fi
  show_log || true
  if ((state == MISTAKE || state == PREEMPTED)); then return "$state"; fi
  say "main ended with status $state"
  return "$FAILURE"
}

# shellcheck disable=SC2088  # for the shell there
show_log() { on_workers 0 'tail -n 30 ~/batnet_run/log || exit 9'; }

# create, setup and train until main ends by itself; the machine goes in any case.
run() {
  local attempt status
  refuse_existing || return
  for ((attempt = 1; ; attempt++)); do
    status=0
    attempt_run || status=$?
    if [[ $DOOMED ]]; then delete_machine || return; fi
    case $status in
      "$PREEMPTED" | "$NO_CAPACITY" | "$UNREACHABLE") ;;
      *) return "$status" ;;
    esac
    if ((attempt >= ATTEMPTS)); then
      say "giving up after $attempt machines (--attempts); the same command resumes"
      return "$status"
    fi
    say "attempt $attempt of $ATTEMPTS ended with status $status: trying again"
    back_off "$attempt"
  done
}

# Not under errexit, as its caller asks for its status.
attempt_run() {
  create_machine || return
  setup || return
  train
}

# Compiles on this computer. A workdir in a bucket is none of its business.
plan() {
  local python=${BATNET_PYTHON:-} argument arguments=()
  if [[ ! $python ]]; then
    python=$ROOT/.venv/bin/python
    if [[ ! -x $python ]]; then python=python3; fi
  fi
  for argument in ${MAIN[@]+"${MAIN[@]}"}; do
    if [[ $argument != --workdir=* ]]; then arguments+=("$argument"); fi
  done
  if [[ $PRICE ]]; then arguments+=("--price=$PRICE"); fi
  cd "$ROOT"
  call "$python" -m batnet_jax.main --mode=plan --slice="$TYPE" "${arguments[@]}"
}

status_of_all() {
  local node
  node=$(node_state)
  echo "machine: $node"
  echo "queued resource: $(queue_state)"
  if [[ $node == READY ]]; then on_workers all "$LOOK"; fi
}

# --- from the command line -----------------------------------------------------------------------

number() {
  if [[ ! $2 =~ ^[0-9]{1,6}$ ]]; then mistake "$1=$2: give a whole number"; fi
  printf '%s' "$((10#$2))"
}

parse() {
  if (($# == 0)); then mistake "no verb given: see launch/tpu_vm.sh --help"; fi
  case $1 in
    plan | create | setup | train | eval | embed | run | logs | status | delete) VERB=$1 ;;
    --help | -h) usage && exit 0 ;;
    *) mistake "unknown verb '$1': see launch/tpu_vm.sh --help" ;;
  esac
  shift
  while (($#)); do
    case $1 in
      --zone=*) ZONE=${1#*=} ;;
      --type=*) TYPE=${1#*=} ;;
      --name=*) NAME=${1#*=} ;;
      --project=*) PROJECT=${1#*=} ;;
      --version=*) VERSION=${1#*=} ;;
      --data=*) DATA=${1#*=} ;;
      --wait=*) WAIT=$(number --wait "${1#*=}") ;;
      --attempts=*) ATTEMPTS=$(number --attempts "${1#*=}") ;;
      --price=*) PRICE=${1#*=} ;;
      --worker=*) WORKER=$(number --worker "${1#*=}") ;;
      --spot) SPOT=yes ;;
      --queued) QUEUED=yes ;;
      --dry-run) DRY_RUN=yes ;;
      --help | -h) usage && exit 0 ;;
      --)
        MAIN=("${@:2}")
        break
        ;;
      *) mistake "unknown option '$1': see launch/tpu_vm.sh --help; arguments of main go after --" ;;
    esac
    shift
  done
}

check() {
  if [[ ! $ZONE && $VERB != plan ]]; then mistake "no --zone=ZONE given: launch/README.md says how to choose one"; fi
  if [[ ! $NAME =~ ^[a-z]([a-z0-9-]{0,60}[a-z0-9])?$ ]]; then
    mistake "--name=$NAME: give small letters, digits and -, a letter first"
  fi
  if [[ $DATA && $DATA != gs://* ]]; then mistake "--data=$DATA: give a folder as gs://BUCKET/FOLDER"; fi
  case $VERB in
    plan) if [[ ! $TYPE ]]; then mistake "plan needs --type=TYPE, such as v4-8"; fi ;;
    create | run)
      if [[ ! $TYPE ]]; then mistake "$VERB needs --type=TYPE, such as v4-8"; fi
      VERSION=${VERSION:-$(default_version)}
      ;;
  esac
  check_main
  if [[ ! $DRY_RUN && $VERB != plan ]] && ! command -v gcloud >/dev/null; then
    mistake "gcloud is not installed: see https://cloud.google.com/sdk/docs/install"
  fi
}

# A wrong name is not a preemption.
require_machine() {
  PRETENDED=READY
  if [[ $(node_state) == NONE ]]; then
    mistake "there is no '$NAME' in $ZONE: create it, or give its --name and --zone"
  fi
}

# What main would refuse, or lose, is said before a machine costs anything.
check_main() {
  local argument config='' workdir='' output=''
  case $VERB in
    plan | train | eval | embed | run) ;;
    *)
      if ((${#MAIN[@]})); then mistake "$VERB takes no arguments of main"; fi
      return
      ;;
  esac
  for argument in ${MAIN[@]+"${MAIN[@]}"}; do
    case $argument in
      --config=*) config=${argument#*=} ;;
      --workdir=*) workdir=${argument#*=} ;;
      --output=*) output=${argument#*=} ;;
    esac
  done
  if [[ $VERB == embed ]]; then
    if [[ ! $workdir || ! $output || $output == *://* ]]; then
      mistake "embed needs a run, and a folder that all hosts share:" \
        "-- --workdir=gs://BUCKET/RUN --images=/mnt/images --output=/mnt/gallery"
    fi
    return
  fi
  if [[ ! -f $ROOT/$config ]]; then
    mistake "--config=$config: name a file of configs/ after --, as in -- --config=configs/demo.py"
  fi
  if [[ $VERB == run && $workdir != gs://* ]]; then
    mistake "run deletes the machine: give a bucket after --, as in -- --workdir=gs://BUCKET/RUN"
  fi
}

# However this script ends, it leaves no machine of its own behind.
clean_up() {
  local status=$? child
  trap '' INT TERM HUP # a second ctrl-C must not stop the deletion
  for child in $(jobs -p); do # bash knows a command from its first moment on
    kill -- "-$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  done
  if [[ $DOOMED ]]; then
    say "deleting '$NAME': please wait"
    delete_machine || status=$?
  fi
  rm -rf "$SCRATCH"
  exit "$status"
}

main() {
  BACKOFF=$(number BATNET_BACKOFF "$BACKOFF")
  POLL=$(number BATNET_POLL "$POLL")
  parse "$@"
  check
  LOCATION=(--zone="$ZONE")
  if [[ $PROJECT ]]; then LOCATION+=(--project="$PROJECT"); fi
  exec 3>&1 # where a dry run prints, also from within $(...)
  SCRATCH=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  case $VERB in
    plan) plan ;;
    create)
      refuse_existing
      create_machine
      DOOMED=''
      say "'$NAME' is up, and billed until: $(myself delete)"
      ;;
    setup)
      require_machine
      setup
      ;;
    train)
      require_machine
      train
      ;;
    eval | embed)
      require_machine
      MAIN+=("--mode=$VERB")
      train
      ;;
    run) run ;;
    logs)
      require_machine
      on_workers "$WORKER" 'tail -n 50 -F ~/batnet_run/log'
      ;;
    status)
      PRETENDED=READY
      status_of_all
      ;;
    delete)
      PRETENDED=READY
      delete_machine
      ;;
  esac
}

main "$@"
