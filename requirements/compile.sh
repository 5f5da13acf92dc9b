#!/usr/bin/env bash
# Writes requirements/*.txt anew: the versions of constraints.txt, with the hashes of all their files.
# They hold for Python 3.11, 3.12 and 3.13 and for every platform. `make pins` calls this with uv's path.
#   run      what the package needs
#   others   what an extra needs beyond run, and beyond test
set -euo pipefail
uv=$1
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=3.11  # the lowest
without=()  # the packages of the files before, which need not be named again
compile() {  # NAME [ARGUMENT ...]
  local name=$1 before=("${without[@]/#/--no-emit-package=}")
  shift
  rm -f "requirements/$name.txt"  # its versions would be preferred
  "$uv" pip compile --quiet --no-config --universal --python-version "$python" --generate-hashes \
    --no-annotate --custom-compile-command "make pins" \
    --constraints constraints.txt "${before[@]}" --output-file "requirements/$name.txt" "$@"
}
# A package with a marker (; sys_platform == 'win32') is not there for the files that follow.
names() { sed -n '/;/d; s/^\([A-Za-z0-9._-]*\)==.*/\1/p' "requirements/$1.txt"; }

compile build - <<<"setuptools>=77"
mapfile -t without < <(names build)
compile run pyproject.toml
mapfile -t without < <(names build; names run)
compile test pyproject.toml --extra test
mapfile -t without < <(names build; names run; names test)
for extra in dev onnx openvino browser notebook tables gpu; do
  compile "$extra" pyproject.toml --extra "$extra"
done
python=3.11.5  # a plugin of the documentation's wants it
compile docs pyproject.toml --extra docs
