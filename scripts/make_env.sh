#!/bin/sh
# Create a virtual environment with pinned dependencies: make_env.sh PYTHON VENV EXTRAS TORCH_INDEX_URL
# Runs again only when pyproject.toml or constraints.txt are newer than the stamp that make looks at.
set -eu
python=$1 venv=$2 extras=$3 torch_index=$4

command -v "$python" >/dev/null 2>&1 || python=python3
command -v "$python" >/dev/null 2>&1 || {
    echo "Nextoffer needs Python 3.11 and found neither python3.11 nor python3 on the PATH; install it, or name it: make PYTHON=/path/to/python3.11" >&2
    exit 2
}
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$found" = 3.11 ] || {
    echo "Nextoffer's pinned environment is for Python 3.11 and '$python' is Python $found; install 3.11, or name it: make PYTHON=/path/to/python3.11" >&2
    exit 2
}

[ -x "$venv/bin/python" ] || { echo "creating $venv (Python $found)"; "$python" -m venv "$venv"; }
echo "installing pinned dependencies [$extras]: the first time this takes some minutes"
# pyspark comes as a source archive, so pip builds a wheel of it: setuptools must be there and new enough.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel -c constraints.txt
case ",$extras," in
*,all,*)
    # The CPU build where the index for it can be reached; a plain `pip install torch` would fetch CUDA packages of gigabytes.
    torch=$(sed -n 's/^torch==//p' constraints.txt)
    if [ -n "$torch_index" ]; then
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$torch" -c constraints.txt --extra-index-url "$torch_index"
    else
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$torch" -c constraints.txt
    fi
    ;;
esac
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
"$venv/bin/python" -m pip check
touch "$venv/.installed"
