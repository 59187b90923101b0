# shellcheck shell=sh
# Read by ./demo and ./test, which stand in the checkout: finds Python, makes .venv and installs weighbridge into it, in place.
#
# As root, missing Debian packages are installed; otherwise the line to type is said. Nothing here ever calls sudo.
#   WEIGHBRIDGE_NO_APT=1       install no Debian package, root or not
#   WEIGHBRIDGE_PYTHON=path    use this Python (3.11 or newer, with venv)
#   WEIGHBRIDGE_SKIP_UI=1      leave the page out (no npm registry needed)

venv=.venv
python=      # the Python that makes .venv
compiler=yes # until looked for: a run that changes nothing should not look
page_is_needed=yes
apt_is_fresh=

say() { printf '%s\n' "$*" >&2; }

stop() {
    say "$*"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

may_apt() { [ -z "${WEIGHBRIDGE_NO_APT:-}" ] && has apt-get && [ "$(id -u)" = 0 ]; }

# apt_install PACKAGE...: false where that is not for us to do, or did not work.
apt_install() {
    may_apt || return 1
    say "Installing Debian packages: $*"
    if [ -z "$apt_is_fresh" ]; then
        apt-get update -qq </dev/null >/dev/null 2>&1 || say "(apt-get update failed; going on with the lists that are here)"
        apt_is_fresh=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1; }

# Debian's Python has a venv module without ensurepip until python3-venv is installed.
has_venv() { "$1" -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1; }

look_for_python() {
    bare=
    for name in ${WEIGHBRIDGE_PYTHON:+"$WEIGHBRIDGE_PYTHON"} python3 python3.11 python3.12 python3.13 python3.14; do
        if has "$name" && is_new_enough "$name"; then
            if has_venv "$name"; then
                python=$name
                return 0
            fi
            bare=${bare:-$name}
        fi
    done
    return 1
}

find_python() {
    look_for_python && return 0
    if [ -n "$bare" ]; then
        packages=$("$bare" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    else
        packages="python3 python3-venv"
    fi
    # shellcheck disable=SC2086  # a list of packages
    if apt_install $packages && look_for_python; then
        return 0
    fi
    say "weighbridge needs Python 3.11 or newer with its venv module; there is none on PATH."
    stop "On Debian or Ubuntu:  sudo apt-get install $packages"
}

has_compiler() {
    for name in cc gcc clang; do
        if has "$name" && printf '#include <stdint.h>\n#include <math.h>\n' | "$name" -x c -fsyntax-only - >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

find_compiler() {
    if has_compiler || { apt_install gcc libc6-dev && has_compiler; }; then
        compiler=yes
    else
        compiler=no
    fi
}

# What the installation was made from, and what it left: when this line changes, it is made anew.
state() {
    sources=$(find pyproject.toml constraints.txt hatch_build.py native frontend src/weighbridge/capture/library.py \
        -name node_modules -prune -o -name __pycache__ -prune -o -type f -exec cksum {} + 2>/dev/null | LC_ALL=C sort | cksum)
    page=no
    [ ! -f src/weighbridge/server/static/index.html ] || page=yes
    library=no
    for file in src/weighbridge/capture/*.so; do
        [ ! -f "$file" ] || library=yes
    done
    echo "$1 sources=$sources compiler=$compiler page=$page library=$library skip=${WEIGHBRIDGE_SKIP_UI:-} at=$(pwd -P)"
}

is_installed() {
    [ -f "$venv/installed" ] && "$venv/bin/python" -c 'import pip' >/dev/null 2>&1 || return 1
    for extras in "$@"; do
        [ "$(cat "$venv/installed")" != "$(state "$extras")" ] || return 0
    done
    return 1
}

say_what_is_downloaded() {
    say "Installing into $venv, once. Downloads about 250 MB of Python packages without torch$1, fewer where pip has them at hand."
    "$venv/bin/python" -c 'import torch' >/dev/null 2>&1 && return 0
    torch=$(sed -n 's/^torch==//p' constraints.txt)
    if [ "$(uname -s)" = Linux ] && ! "$venv/bin/python" -m pip index versions torch 2>/dev/null | grep -qF "$torch+cpu"; then
        say "torch $torch for Linux brings NVIDIA's CUDA libraries: several GB more to download, and about twice that on disk."
        say "On a machine without a GPU, point pip at PyTorch's CPU builds first (about 200 MB; PyTorch's installation page says how)."
    else
        say "torch $torch: about 200 MB more."
    fi
}

pip_install() {
    quiet=-q
    [ ! -t 1 ] || quiet=
    # shellcheck disable=SC2086  # one option or none
    "$venv/bin/python" -m pip install $quiet --disable-pip-version-check --no-input -c constraints.txt -e ".[$1]" </dev/null
}

# install EXTRAS OTHER...: weighbridge with these extras; nothing to do where these or the others (which hold them) are installed.
install() {
    if is_installed "$@"; then
        return 0
    fi
    find_compiler
    if is_installed "$@"; then
        return 0
    fi
    if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
        find_python
        "$python" -m venv --clear "$venv" </dev/null
    fi
    case $1 in
    *dev*) say_what_is_downloaded ", the tools that test it included" ;;
    *) say_what_is_downloaded "" ;;
    esac
    rm -f "$venv/installed"
    if ! pip_install "$1"; then
        [ "$page_is_needed" = no ] || stop "The installation failed; pip says above why."
        say "The installation failed. Trying once more without the page, which needs the npm registry (WEIGHBRIDGE_SKIP_UI=1)."
        WEIGHBRIDGE_SKIP_UI=1
        export WEIGHBRIDGE_SKIP_UI
        pip_install "$1" || stop "The installation failed; pip says above why."
        return 0 # and no note that it is installed: the next call tries for the page again
    fi
    state "$1" >"$venv/installed"
    case $(cat "$venv/installed") in
    *library=no*)
        say "There is no C compiler, so weighbridge weighs with torch operations: the same numbers, slower."
        may_apt || say "For the fast way:  sudo apt-get install gcc libc6-dev   and this command again."
        ;;
    esac
}
