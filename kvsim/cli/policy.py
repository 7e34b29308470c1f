"""The commands about policies: `kvsim policy list`, `test` and `time`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim.cli.choices import json_option, output_option, set_option
from kvsim.cli.outputs import output_file
from kvsim.cli.terminal import bar

if TYPE_CHECKING:
    from kvsim.policies.registry import Entry

policy_app = typer.Typer(
    help="List policies, test a plug-in, and time a policy's decisions on this machine.",
)

Name = Annotated[str, typer.Argument(help="A policy by name, or package.module:Class.")]
Arguments = Annotated[list[str] | None, set_option("An argument of the policy. Repeatable.")]


@policy_app.command("list")
def policy_list(
    as_json: Annotated[bool, json_option("Print a list of objects instead of the table.")] = False,
) -> None:
    """List every policy, prefetcher and admission, with its kind and where it comes from."""
    from kvsim.policies.registry import ADMISSIONS, POLICIES, PREFETCHERS

    rows = [_described(name, entry) for table in (POLICIES, PREFETCHERS, ADMISSIONS) for name, entry in table.items()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    typer.echo(f"{'name':<16} {'kind':<10} {'after':<48} arguments")
    for row in rows:
        arguments = ", ".join(row["arguments"]) or "-"
        source = f"{row['source']}{' (sees the future)' if row['is_oracle'] else ''}"
        typer.echo(f"{row['name']:<16} {row['kind']:<10} {source:<48} {arguments}")
    typer.echo(
        '\nEvery policy of kind eviction takes prefetch = "NAME", admission = "NAME" and compiled = false besides.'
    )


@policy_app.command("test")
def policy_test(name: Name, arguments: Arguments = None) -> None:
    """Check that a policy, or a part of one, keeps to the rules; exit with 2 where it does not."""
    from kvsim.errors import PolicyError
    from kvsim.policies.testing.conformance import check_policy

    errors = []
    for check in check_policy(name, _parsed(arguments)):
        if check.problem is None:
            typer.echo(f"ok      {check.name}")
        else:
            typer.echo(f"FAILED  {check.name}")
            errors.append(f"policy {name}: {check.name}: {check.problem}")
    if errors:
        raise PolicyError("\n".join(errors))


@policy_app.command("time")
def policy_time(
    name: Name,
    arguments: Arguments = None,
    profile: Annotated[
        str | None, typer.Option(metavar="FILE", help="A profile of this machine to add the cost to.")
    ] = None,
    output: Annotated[Path | None, output_option("FILE", "The profile to write, *.toml.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Four points of the grid instead of all.")] = False,
    as_json: Annotated[bool, json_option("Print the cost table as JSON.")] = False,
) -> None:
    """Time a policy's decisions on this machine, and add their cost to a profile."""
    from kvsim.errors import CalibrationError
    from kvsim.policies.testing.timing import time_decisions, with_decisions
    from kvsim.profile.profile import load_profile, write_profile
    from kvsim.report.tables import aligned
    from kvsim.scenario.shipped import find_profile

    if (profile is None) != (output is None):
        raise CalibrationError("--profile and --output go together: the profile to add to, and the one to write")
    known = load_profile(find_profile(profile)) if profile else None
    if output is not None:
        output_file(output, ".toml")
    with bar(f"timing {name}") as shown:
        called, table = time_decisions(name, _parsed(arguments), quick=quick, progress=shown.advance)
    if as_json:
        typer.echo(json.dumps({"name": called, **table.model_dump(mode="json", exclude={"samples"})}, indent=2))
    else:
        typer.echo(f"a decision of {called}, in microseconds: pages selected (down), pages in all (across)")
        rows = [["", *(f"{pages:,.0f}" for pages in table.columns)]]
        for amount, row in zip(table.amounts, table.time_s, strict=True):
            rows.append([f"{amount:,.0f}", *(f"{time_s * 1e6:.1f}" for time_s in row)])
        typer.echo("\n".join(aligned(rows, left=(), rule=False)))
    if known is not None and output is not None:
        write_profile(with_decisions(known, called, table), output)
        typer.echo(f'{output}: written; [policies."{called}"] is this machine\'s', err=as_json)


def _described(name: str, entry: Entry) -> dict[str, Any]:
    from kvsim.policies.make import part_arguments
    from kvsim.policies.registry import load_class

    return {
        "name": name,
        "kind": entry.kind,
        "source": entry.source,
        "is_oracle": entry.is_oracle,
        "compiled": entry.compiled is not None,
        "class": entry.path,
        "arguments": part_arguments(load_class(entry.path, name)),
    }


def _parsed(arguments: list[str] | None) -> dict[str, Any]:
    """Return KEY=VALUE texts as arguments: a value is read as TOML, or else as the text it is."""
    from kvsim.scenario.overrides import parse_override

    return dict(parse_override(text, example="prefetch=previous-step") for text in arguments or ())
