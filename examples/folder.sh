#!/bin/sh
# Compress every photograph of a folder into another; run it again to go on where it stopped.
# A photograph that can't be compressed is named on stderr, and the others go on.
#
#   sh examples/folder.sh PHOTOS COMPRESSED [BPP]
set -eu
photos=$1 compressed=$2 bpp=${3:-0.1}
mkdir -p "$compressed"
failed=0
for photo in "$photos"/*.jpg "$photos"/*.jpeg "$photos"/*.png "$photos"/*.webp; do
    [ -f "$photo" ] || continue
    target=$compressed/$(basename "$photo").cdc
    [ -f "$target" ] && continue
    cdcodec encode "$photo" --bpp "$bpp" -o "$target" || failed=1
done
exit $failed
