"""`cdcodec info`: what a compressed file holds, without decoding it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import PATH, Talk

if TYPE_CHECKING:
    from cdcodec.api import FileInfo


@click.command(short_help="Say what a compressed file holds.")
@click.argument("source", metavar="IN", type=PATH)
@click.option(
    "--verify",
    is_flag=True,
    help="Run the entropy decoder too, and print the sha256 of all symbols.",
)
@console.model_option
@console.json_option
def command(source: str, verify: bool, model: str | None, as_json: bool) -> None:
    """Describe the compressed file IN: its header, its chunks, and where the bytes went.

    The sha256 that --verify prints is the same on every machine.
    """
    opened = files.source(source)

    from cdcodec import api

    described = api.info(opened, verify=verify, model=model)
    if as_json:
        Talk(json=True).report(_report(source, described))
    else:
        click.echo("\n".join(_lines(source, described)))


def _report(source: str, described: FileInfo) -> dict[str, Any]:
    report = {"input": source, **asdict(described)}
    report["chunks"] = [{"name": name, "bytes": size} for name, size in described.chunks]
    report["bits"] = console.rounded(described.bits, 2)
    return report


def _lines(source: str, described: FileInfo) -> list[str]:
    model = described.model or "unknown weights"
    grey = ", grey" if described.grey else ""
    fields = [
        ("file", click.format_filename(source)),
        ("format", f"version {described.format_version}"),
        ("image", f"{described.width}x{described.height}{grey}"),
        ("size", f"{described.file_bytes:,} bytes, {described.bpp:.4f} bpp"),
        ("family", described.family),
        ("model", f"{model} (id {described.model_id})"),
        ("rate point", str(described.point)),
        ("steps", str(described.steps)),
        *console.decoder_fields(described.decoders),
    ]
    if described.symbols_sha256 is not None:
        fields.append(("symbols", f"sha256 {described.symbols_sha256}"))
    lines = console.table(fields)
    parts = [*described.chunks, ("header, checksum", described.overhead_bytes)]
    rows = [(name, f"{size:,} bytes", f"{size / described.file_bytes:.1%}") for name, size in parts]
    lines += ["", *console.table(rows, right=(1, 2))]
    if described.bits:
        lines += ["", *console.bits_lines(described.bits)]
    return lines
