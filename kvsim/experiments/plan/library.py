"""`kvsim.plan`: a plan as a script or a notebook wants it, with the options as a data frame."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.experiments.plan.plan import plan as make_plan
from kvsim.experiments.plan.report.figure import plan_figure
from kvsim.experiments.plan.report.page import plan_page
from kvsim.experiments.plan.report.text import plan_json, plan_text
from kvsim.experiments.plan.result import Plan
from kvsim.experiments.plan.scenario import write_scenario
from kvsim.report.frames import Frame, html_table, records_frame
from kvsim.report.html.page import page_html
from kvsim.report.style import png


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PlanResult:
    """What `kvsim.plan` returns; printed, it is what the command prints."""

    plan: Plan

    @property
    def memory(self) -> Mapping[str, Any]:
        """The parts of the memory in bytes, and the largest context and batch that fit whole."""
        memory: Mapping[str, Any] = self.as_dict()["memory"]
        return memory

    @property
    def options(self) -> Frame:
        """A row for each option, units in the names of the columns."""
        return records_frame(self.as_dict()["options"])

    @property
    def recommended(self) -> str | None:
        """The name of the option to take; None where nothing meets what was asked."""
        return self.plan.recommended

    @property
    def front(self) -> tuple[str, ...]:
        """The names of the options on the Pareto front."""
        return self.plan.front

    def as_dict(self) -> dict[str, Any]:
        """Return what `kvsim plan --json` prints."""
        return plan_json(self.plan)

    def figure(self) -> bytes:
        """Return the picture as PNG."""
        return png(plan_figure(self.plan))

    def report(self) -> bytes:
        """Return the page to send on, HTML in UTF-8."""
        return page_html(plan_page(self.plan, command="kvsim.plan"))

    def save_scenario(self, path: Path | str) -> None:
        """Write the scenario that `kvsim.run` simulates to the same figures.

        Raises
        ------
        ScenarioError
            If there is none, because kvsim does not simulate the model in pages, or it cannot be written.
        """
        write_scenario(self.plan.scenario, self.plan.request, Path(path), "kvsim.plan")

    def __str__(self) -> str:
        return plan_text(self.plan)

    def __repr__(self) -> str:
        request = self.plan.request
        return f"<plan of {request.spec.name} on {request.card.name}: {len(self.plan.options)} options>"

    def _repr_html_(self) -> str:
        paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in (repr(self), " ".join(self.plan.sentences)))
        return paragraphs + html_table(self.options)


def plan(model: str, gpu: str, *, context_tokens: int, batch: int = 1, **options: Any) -> PlanResult:
    """Return what fits, what each way of managing the KV cache would give, and what to do.

    Parameters
    ----------
    model
        A name of `kvsim model list`, the path of a config.json or of a folder with one, or a hub id.
    gpu
        A name of `kvsim card list`, or the TOML file of a card.
    context_tokens
        Tokens of each sequence.
    batch
        Sequences at once.
    options
        `weights`, `kv`, `tpot_s`, `recall_frac`, `host_memory_bytes`, `utilisation_frac`, `reserve_bytes`,
        `step_tokens`, `runtime`, as in `kvsim.experiments.plan.request.make_request`.

    Raises
    ------
    KvsimError
        If there is no such model, card or format, a number makes no sense, or an estimate cannot price the model.
    """
    return PlanResult(plan=make_plan(model, gpu, context_tokens=context_tokens, batch=batch, **options))
