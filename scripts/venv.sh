# Sourced by the scripts beside it. Sets $root (the checkout) and $python (of its .venv), and makes that
# environment or brings it up to date when there is need. Returns non-zero, having said why, when it cannot.
# PYTHON=/path/to/python chooses the interpreter for a new environment.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return 1
python="$root/.venv/bin/python"
stamp="$root/.venv/installed"

# The distribution's own interpreter comes first: it is what hosts run, and it can be a good deal faster than one that
# was compiled with the defaults (docs/performance.md).
find_python() {
    local candidate candidates=(/usr/bin/python3 python3 python3.13 python3.12 python3.11)
    if [ -n "${PYTHON:-}" ]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    echo "Python 3.11 or newer with its module venv is needed, and none of these is it: ${candidates[*]}." \
        "Install it (Debian and Ubuntu: python3 and python3-venv), or name it with PYTHON=/path/to/python." >&2
    return 1
}

# The version of the libvirt that is installed here with its headers; nothing without.
libvirt_version() {
    pkg-config --modversion libvirt 2>/dev/null || true
}

# What the environment must hold; also where it is, because installed scripts carry that path.
wanted() {
    printf '%s\n' "$root"
    { cat "$root/requirements.txt" "$root/setup.py" "$root/pyproject.toml"; libvirt_version; } | cksum
}

make_venv() {
    local base
    base=$(find_python) || return 1
    echo "Making $root/.venv with $("$base" --version) ..." >&2
    "$base" -m venv --clear "$root/.venv"
}

install() {
    echo "Installing what requirements.txt pins ..." >&2
    local pip=("$python" -m pip --disable-pip-version-check -qq install)
    "${pip[@]}" -r "$root/requirements.txt" &&
        "${pip[@]}" --no-deps --no-build-isolation --editable "$root" &&
        install_libvirt "${pip[@]}" &&
        wanted >"$stamp"
}

# libvirt's Python module is built against the libvirt that is installed, and has to be of its version. Where there
# is none, or it cannot be built, its tests are skipped.
install_libvirt() {
    local version
    version=$(libvirt_version)
    if [ -n "$version" ] && ! "$@" --no-deps --no-build-isolation "libvirt-python==$version"; then
        echo "libvirt-python $version could not be built: the tests with libvirt will be skipped." >&2
    fi
}

up_to_date() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted)" ] && "$python" -c '' 2>/dev/null
}

moved() {
    [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" != "$root" ]
}

prepare() {
    if up_to_date; then
        return 0
    fi
    if moved || ! "$python" -c '' 2>/dev/null; then
        make_venv || return 1
    fi
    if ! install; then
        echo "Installing into $root/.venv failed; what pip said stands above." >&2
        return 1
    fi
}

prepare
