"""The documents agree with the code: commands, weights, exit codes, links, examples that run."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import skimage.data
from PIL import Image

import cdcodec
from cdcodec import errors, families, weights
from cdcodec.bitstream import container
from cdcodec.cli.__main__ import cli
from tests.shell import command_on_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    path
    for pattern in ("*.md", "formats/*.md", "docs/**/*.md", "cdcodec/bundled/*.md")
    for path in ROOT.glob(pattern)
)

RUNNABLE = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)```", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def commands(
    group: click.Group = cli, name: str = "cdcodec", parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, parent)
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {each}", context)
        else:
            yield f"{name} {each}", command


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading of the README."""
    _, _, section = README.partition(heading)
    table = re.search(r"^\|.*?(?=\n\n)", section, re.MULTILINE | re.DOTALL)
    assert table is not None, f"no table after {heading}"
    lines = table.group().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_command_is_in_the_readme_and_nothing_else_is() -> None:
    documented = {row[0].strip("`") for row in rows("## Commands")}
    assert documented == {name for name, _ in commands()}


def test_every_command_and_option_has_help() -> None:
    for name, command in commands():
        assert command.help, f"{name} has no help"
        assert command.short_help, f"{name} has no summary"
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.opts[0]} has no help"


def test_options_in_the_table_of_commands_exist() -> None:
    known = {
        name: {flag for option in command.params for flag in option.opts}
        for name, command in commands()
    }
    for command, what in rows("## Commands"):
        for flag in re.findall(r"`(--[a-z-]+)`", what):
            assert flag in known[command.strip("`")], f"{command} has no {flag}"


def test_every_weight_set_is_in_the_readme_table() -> None:
    documented = {row[0].strip("`"): row[1:4] for row in rows("## Weights")}
    assert documented == {
        each.name: [each.family, each.preset, _where(each)]
        for each in weights.load_registry(weights.registry_path()).values()
    }


def _where(weight_set: weights.WeightSet) -> str:
    (location,) = {file.location for file in weight_set.files}
    return "remote" if location.startswith("https://") else location


def test_families_in_the_readme_are_those_of_the_code() -> None:
    table = {int(row[0]): (row[1], row[3]) for row in rows("## Families")}
    assert table == {family.number: (name, "yes") for name, family in families.FAMILIES.items()}


def test_exit_codes_in_the_readme_are_those_of_the_errors() -> None:
    documented = {int(row[0]) for row in rows("## Pipelines")}
    raised = {kind.exit_code for kind in errors.CdcError.__subclasses__()}
    assert documented == {0, 1, 2, 130, 141} | raised


def test_limits_in_the_readme_are_those_of_the_format() -> None:
    limits = dict(rows("## Limits"))
    assert limits["width, height"] == f"1 to {container.MAX_SIDE:,} pixels"
    assert f"{container.MAX_PIXELS:,}" in limits["pixels"]
    assert limits["file"] == f"{container.MAX_FILE_BYTES >> 20} MiB"
    assert f"at most {container.MAX_STEPS}," in limits["steps"]
    metadata = [container.MAX_ICC_BYTES, container.MAX_EXIF_BYTES, container.MAX_XMP_BYTES]
    assert ", ".join(f"{size >> 20} MiB" for size in metadata) in limits["ICC, EXIF, XMP"]


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    first_screen = README[:1200]
    for target in ("demo", "test"):
        assert f"make {target}" in first_screen
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    text = CODE.sub("", COMMENT.sub("", page.read_text(encoding="utf-8")))
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link} has no heading"


def test_blocks_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one folder, in their order: what a reader would do."""
    photo = Image.fromarray(skimage.data.coffee()).resize((256, 176))
    photo.save(tmp_path / "photo.jpg", quality=95)
    photo.save(tmp_path / "original.png")
    environment = command_on_path(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = RUNNABLE.findall(README)
    assert {language for language, _ in blocks} == {"sh", "python"}
    assert len(blocks) == README.count("<!-- run -->")
    for language, code in blocks:
        if language == "python":
            script = tmp_path / "block.py"
            script.write_text(code, encoding="utf-8")
            runpy.run_path(str(script))
            continue
        done = subprocess.run(
            ["sh", "-e", "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        # A folder as it was: the next block may make files of the same names.
        for made in ("photo.cdc", "small.cdc", "again.png"):
            (tmp_path / made).unlink(missing_ok=True)


def test_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{cdcodec.__version__}]" in text


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == cdcodec.__version__
    needed = project["dependencies"] + project["optional-dependencies"]["dev"]
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name.lower() for name in re.findall(r"^([\w-]+)==", text, re.MULTILINE)}
    names = {re.match(r"[\w-]+", each).group().lower() for each in needed}  # type: ignore[union-attr]
    assert names - {"cdcodec"} <= pinned


def test_the_first_size_in_the_readme_is_the_budget_of_its_rate() -> None:
    said = re.search(
        r"A (\d+)x(\d+) photograph at ([\d.]+) bpp is a file of at most ([\d,]+) b", README
    )
    assert said is not None
    width, height, bpp, size = said.groups()
    assert int(size.replace(",", "")) == int(float(bpp) * int(width) * int(height) / 8)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_extras_are_installed_from_a_checkout(page: Path) -> None:
    assert "cdcodec[" not in page.read_text(encoding="utf-8"), "no index has this package"


def test_the_readme_says_truly_that_no_set_has_an_address() -> None:
    (said,) = re.findall(r"`cdcodec weights fetch` \| (.*) \|", README)
    assert said == "download sets that have an https address; none of those below has one so far"
    sets = weights.load_registry(weights.registry_path()).values()
    assert not any(file.is_remote for each in sets for file in each.files)


def test_metrics_that_pages_name_can_be_measured() -> None:
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    for name in ("NIQE", "PieAPP", "MUSIQ", "CLIP-IQA"):
        assert name not in text, f"nothing here computes {name}"
