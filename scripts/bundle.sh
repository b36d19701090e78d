#!/usr/bin/env bash
# Packs Fathom for other machines into one .tar.xz of at most 40 MiB: scripts/bundle.sh [--preset NAME] [--no-build] [OUT]
#
#   --preset NAME  what to pack: cuda (default) or release
#   --no-build     pack what is built already
#   OUT            the file to write (default: build/NAME/fathom-VERSION-NAME.tar.xz)
#
# Inside are fathom, fathom-master and fathom-worker without their symbols, models/tiny, every shared library they need and
# the licences of these. It runs where glibc is 2.36 or newer (Debian 12, Ubuntu 24.04). Left to the machine: glibc itself, and
# for the preset cuda the driver (580 or newer) and CUDA 13's libcublasLt, which is searched where ld.so does and in
# /usr/local/cuda/lib64. The worker is linked with oneDNN for its CPU backend, so that library is inside too; it is a fifth
# of the whole. Unpack it anywhere and start bin/fathom.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

LIMIT_MIB=40
# Parts of glibc, of the driver and of CUDA: these must be the machine's own.
OF_THE_MACHINE='^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|anl|util|mvec|nss_.*|cuda|nvidia-.*|cudart|cublas|cublasLt|nvrtc.*|nvJitLink))\.so'

preset=cuda
build=yes
out=
while [ $# -gt 0 ]; do
  case $1 in
    --preset)
      [ $# -gt 1 ] || die "--preset needs a name"
      preset=$2
      shift
      ;;
    --no-build) build=no ;;
    -h | --help) usage && exit 0 ;;
    -*) die "unknown argument $1 (see --help)" ;;
    *) out=$1 ;;
  esac
  shift
done
for tool in patchelf xz strip ldd; do
  command -v "$tool" >/dev/null || die "$tool is missing; scripts/setup.sh installs it"
done

PROGRAMS=(fathom fathom-master fathom-worker)
bin="$ROOT/build/$preset/bin"
if [ "$build" = yes ]; then
  step "building ($preset): ${PROGRAMS[*]}"
  if [ -z "${CUDACXX:-}" ] && ! command -v nvcc >/dev/null; then export CUDACXX="$ROOT/.cache/cuda/bin/nvcc"; fi
  mkdir -p "$ROOT/.cache"
  build_preset "$preset" "${PROGRAMS[@]}" >&2
fi
for program in "${PROGRAMS[@]}"; do
  [ -x "$bin/$program" ] || die "$bin/$program is missing; build the preset $preset first"
done
version=$("$bin/fathom" version | awk '{print $2}')
name="fathom-$version-$preset"
out=${out:-$ROOT/build/$preset/$name.tar.xz}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root="$work/$name"
mkdir -p "$root/bin" "$root/lib" "$root/share/fathom/models/tiny" "$root/share/fathom/licenses"

step "collecting"
# Lines `NAME PATH`, the path empty for what this machine lacks.
needed() {
  ldd "${PROGRAMS[@]/#/$bin/}" | awk '$2 == "=>" {print $1, ($3 == "not" ? "" : $3)}' | sort -u
}
left_out=()
while read -r library path; do
  if [[ $library =~ $OF_THE_MACHINE ]]; then
    left_out+=("$library")
    continue
  fi
  [ -n "$path" ] || die "$library is needed and not on this machine"
  cp -L "$path" "$root/lib/$library"
  if command -v dpkg-query >/dev/null && package=$(dpkg-query --search "$(readlink -f "$path")" 2>/dev/null); then
    package=${package%%:*}
    cp -L "/usr/share/doc/$package/copyright" "$root/share/fathom/licenses/$package" 2>/dev/null || true
  fi
done < <(needed)

for program in "${PROGRAMS[@]}"; do
  strip -o "$root/bin/$program" "$bin/$program"
  # RPATH, not RUNPATH: it also holds for what the libraries need themselves.
  patchelf --force-rpath --set-rpath "\$ORIGIN/../lib:/usr/local/cuda/lib64" "$root/bin/$program"
done
for file in "$ROOT"/models/tiny/*; do
  case $file in
    */eval.jsonl) ;; # grades the model; no part of it
    *) cp "$file" "$root/share/fathom/models/tiny/" ;;
  esac
done

step "packing"
# The programs share much of their code; a dictionary as large as all of them together finds it.
tar --create --directory "$work" --sort=name --owner=0 --group=0 --numeric-owner "$name" |
  xz --threads=1 --lzma2=preset=2,dict=64MiB >"$work/packed"
mkdir -p "$(dirname "$out")"
mv "$work/packed" "$out"

mib() { awk -v bytes="$1" 'BEGIN {printf "%.1f MiB", bytes / 1048576}'; }
size=$(stat --format=%s "$out")
printf '%s: %s packed, %s unpacked\n' "$out" "$(mib "$size")" "$(mib "$(du --bytes --summarize "$root" | cut -f1)")"
(cd "$root" && find . -type f -printf '%s %P\n') | sort --numeric-sort --reverse |
  awk '$1 >= 104858 {printf "  %10.1f MiB  %s\n", $1 / 1048576, $2; next} {n++; bytes += $1}
       END {printf "  %10.1f MiB  %d smaller files: Abseil, licences, settings of the model\n", bytes / 1048576, n}'
printf 'left to the machine: %s\n' "${left_out[*]}"
onednn=$(find "$root/lib" -name 'libdnnl*')
printf 'oneDNN is linked into the worker, hence inside: %s, %s packed\n' "$(mib "$(stat --format=%s "$onednn")")" \
  "$(mib "$(xz --threads=1 -2 --stdout "$onednn" | wc -c)")"
[ "$size" -le $((LIMIT_MIB * 1048576)) ] || die "$(mib "$size") is more than $LIMIT_MIB MiB"
