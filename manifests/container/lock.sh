#!/bin/sh
# Writes the lock files next to it from pyproject.toml, with uv (https://docs.astral.sh/uv/). Run it after a dependency changed; with
# --upgrade it takes newer versions. Each file has the hashes of all wheels of a version, so that the image can be built for any processor.
#
# torch.txt has only a version, and torch's CUDA packages are in no file: they come from the image's TORCH_INDEX, whose wheels are not
# those of PyPI. Add --hash=sha256:… to torch.txt for your index, and pip checks it, too. The version is written by hand: the one that
# the tests ran with.
set -eu
cd "$(dirname "$0")"
project=../../pyproject.toml
compile() {
    uv pip compile --quiet --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
        --custom-compile-command manifests/container/lock.sh "$@"
}
python3 -c 'import sys, tomllib; print(*tomllib.load(sys.stdin.buffer)["build-system"]["requires"], sep="\n")' < $project |
    compile --generate-hashes - -o build.txt "$@"
compile --generate-hashes $project --extra signing -o slim.txt "$@"
all=$(compile $project --extra models --extra signing -c slim.txt -c torch.txt --no-header --no-annotate)
others=$(
    echo "$all" | sed -En 's/^((cuda|nvidia)-[^=]*|torch|triton)==.*/--no-emit-package \1/p'
    sed -En 's/^([a-z0-9_.-]+)==.*/--no-emit-package \1/p' slim.txt # warm.txt has what warm needs beyond them
)
compile --generate-hashes $project --extra models --extra signing -c slim.txt -c torch.txt $others -o warm.txt "$@"
sed -i '/^$/,$d' warm.txt # a list of the packages that were left out
