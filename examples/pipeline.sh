#!/bin/sh
# Send a photograph through a narrow line: nothing but the compressed bytes goes from left to right.
# The middle of the pipe stands for the line; it could as well be a radio modem or `ssh host`.
#
#   sh examples/pipeline.sh < photo.jpg > received.png
set -eu
cdcodec encode - --size 3k --metadata none | cat | cdcodec decode - --format png
