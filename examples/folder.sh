#!/bin/sh
# Compress every photograph of a folder into another; run it again to go on where it stopped.
# A photograph that can't be compressed is named on stderr, and the others go on. Other files than
# pictures are left out, and named there too.
#
#   sh examples/folder.sh PHOTOS COMPRESSED [BPP]
set -eu
[ $# -ge 2 ] || { echo "usage: sh examples/folder.sh PHOTOS COMPRESSED [BPP]" >&2; exit 2; }
photos=$1 compressed=$2 bpp=${3:-0.1}
[ -d "$photos" ] || { echo "$photos is not a folder" >&2; exit 2; }
mkdir -p "$compressed"
failed=0
for photo in "$photos"/*; do
    [ -f "$photo" ] || continue
    name=$(basename "$photo")
    case $(printf %s "$name" | tr '[:upper:]' '[:lower:]') in
    *.jpg | *.jpeg | *.jpe | *.jfif | *.png | *.apng | *.webp | *.avif | *.avifs | *.gif) ;;
    *.tif | *.tiff | *.bmp | *.dib | *.ppm | *.pgm | *.pbm | *.pnm | *.pfm | *.qoi) ;;
    *.jp2 | *.j2k | *.j2c | *.jpc | *.jpf | *.jpx) ;;
    *)
        echo "$photo is left out: cdcodec reads no pictures with its suffix" >&2
        continue
        ;;
    esac
    target=$compressed/$name.cdc
    [ -f "$target" ] && continue
    cdcodec encode "$photo" --bpp "$bpp" -o "$target" || failed=1
done
exit $failed
