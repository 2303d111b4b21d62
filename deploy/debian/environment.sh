#!/usr/bin/env bash
# Lay out what debhelper does not know of, below the directory $1: the Python environment and what is written by it.
# WHEELS and VERSION come from deploy/debian/build.sh.
set -euo pipefail
stage=$1
environment=$stage/usr/lib/hostdevd
interpreter=$(readlink -f /usr/bin/python3) # with its version: a later Python of the distribution is another one

# Copies, never links: the packaging strips libraries in place, and uv's cache is every environment's.
export UV_LINK_MODE=copy
uv venv --quiet --no-project --python "$interpreter" "$environment"
uv pip install --quiet --no-config --python "$environment/bin/python" --constraint requirements.lock \
    --find-links "$WHEELS" "hostdevd[libvirt,otel]==$VERSION" "hostdevd-client[cli]==$VERSION"

# Nothing may lead to where it was built.
cd "$environment"
find bin -mindepth 1 ! -name 'python*' ! -name 'hostdev*' -delete
ln -sf "$interpreter" bin/python
# -I: neither the caller's directory nor PYTHON... variables, as in every program that root runs.
sed -i '1s|.*|#!/usr/lib/hostdevd/bin/python -I|' bin/hostdev*
find . -name direct_url.json -delete -o -name uv_cache.json -delete -o -name REQUESTED -delete -o -name .lock -delete \
    -o -name .gitignore -delete -o -name CACHEDIR.TAG -delete
find . -name RECORD -exec sed -i '/direct_url.json\|uv_cache.json\|REQUESTED\|\.\.\/bin\//d' {} +
# Some come as programs, which nobody calls.
find lib -type f -exec chmod a-x {} +
# Compiled here, else root's first run would leave files that no package knows. They are valid whatever the time of the
# sources. -I: PYTHONPYCACHEPREFIX would put them elsewhere.
bin/python -I -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$PWD" -p /usr/lib/hostdevd lib
cd "$OLDPWD"

install -d "$stage/usr/bin"
for program in "$environment"/bin/hostdev*; do ln -s "../lib/hostdevd/bin/${program##*/}" "$stage/usr/bin"; done
python() { PYTHONDONTWRITEBYTECODE=1 "$environment/bin/python" "$@"; }

manuals=$stage/usr/share/man
install -d "$manuals"/man1 "$manuals"/man5 "$manuals"/man8
python -m hostdev.cli manual >"$manuals/man1/hostdevctl.1"
python debian/manual.py command >"$manuals/man8/hostdevd.8"
python debian/manual.py options >"$manuals/man5/hostdevd.toml.5"

share=$stage/usr/share
bash=$share/bash-completion/completions zsh=$share/zsh/vendor-completions fish=$share/fish/vendor_completions.d
install -d "$bash" "$zsh" "$fish"
complete() { _HOSTDEVCTL_COMPLETE=source_$1 python -m hostdev.cli | sed '/./,$!d'; }
complete bash >"$bash/hostdevctl"
complete zsh >"$zsh/_hostdevctl"
complete fish >"$fish/hostdevctl.fish"
uv pip install --quiet --no-config --python "$interpreter" --target ../shtab --constraint requirements.lock shtab
complete() { PYTHONPATH=../shtab python -m shtab --shell "$1" hostdevd.__main__._parser; }
complete bash >"$bash/hostdevd"
complete zsh >"$zsh/_hostdevd"
complete fish >"$fish/hostdevd.fish"
