"""The command line as a user meets it: one line for what they can mend, silence in pipes, nothing loaded in vain."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kvsim import __version__
from kvsim.cli import run_command, use_one_thread
from kvsim.profile.profile import load_profile
from kvsim.scenario.shipped import find_profile, find_scenario
from tests.cli.typed import refusal

HEAVY = ("torch", "transformers", "pandas", "numba", "simpy", "matplotlib", "seaborn", "pyarrow", "scipy", "numpy")


def python(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments", ["'--help'", "", "'--version'", "'run', '--help'", "'capture', '--help'"])
def test_help_loads_no_heavy_library(arguments: str) -> None:
    done = python(
        "import sys; from kvsim.cli import run_command\n"
        f"code = run_command([{arguments}])\n"
        f"print(code, sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    assert done.stderr == "0 []\n"
    assert done.stdout


def test_serving_loads_what_it_uses(tmp_path: Path) -> None:
    """Each of these takes a tenth of a second and more."""
    arguments = ["run", "serving", "--set", "trace.num_requests=20", "--set", "sweep={}", "-o", str(tmp_path)]
    done = python(
        "import sys; from kvsim.cli import run_command\n"
        f"code = run_command({arguments!r})\n"
        "others = ('pandas', 'seaborn', 'scipy.special', 'plotly.offline', 'rich.progress', 'numba.np.arrayobj')\n"
        "print(code, sorted(set(others) & set(sys.modules)), file=sys.stderr)"
    )
    compiled = ["numba.np.arrayobj"] if "numba.np.arrayobj" in done.stderr else []  # where nothing was cached yet
    assert done.stderr == f"0 {compiled}\n"
    (folder,) = (tmp_path / "serving").iterdir()
    files = {path.name for path in folder.iterdir()}
    assert files == {
        *("manifest.json", "summary.json", "report.html", "serving_cdf.png", "serving_timeline.png"),
        *("rows.parquet", "itl.parquet", "timeline.parquet"),
    }


def test_python_m_kvsim_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvsim", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert done.stdout == f"kvsim {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument"),
        (["run", "--jsn", "x"], "No such option: --jsn"),
        (["run", "a", "b"], "Got unexpected extra argument"),
        (["profile"], "Missing command."),
        (["capture", "--model", "m", "--text", "t", "-o", "o", "--prompt-tokens", "many"], "Invalid value for"),
        (["capture", "--model", "m", "--text", "t", "-o", "o", "--device", "tpu"], "Invalid value for"),
    ],
)
def test_a_usage_error_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    found = refusal(capsys, *arguments)
    assert found.startswith(line)
    assert found.endswith("--help`)")


def test_a_fault_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "run", "long_contex") == (
        "long_contex: no scenario of this name ships with kvsim; did you mean 'long_context'? (a path ends in .toml)"
    )


def test_a_scenarios_faults_are_a_line_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["init", "mine"]) == 0
    capsys.readouterr()
    path = tmp_path / "mine.toml"
    path.write_text(path.read_text().replace("k_pages = 32", "k_page = 32").replace("seed = 7", "seed = -7"))
    assert run_command(["check", "mine.toml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "mine.toml: unknown key 'selector.k_page'; did you mean 'k_pages'?",
        "mine.toml: run.seed: should be at least 0, found -7",
    ]


def test_ctrl_c_is_one_line_and_code_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kvsim.experiments.registry.load_scenario", interrupted)
    assert refusal(capsys, "scenarios", code=130) == "interrupted"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("kvsim.experiments.registry.load_scenario", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        run_command(["scenarios"])


def test_a_reader_who_leaves_early_sees_no_traceback() -> None:
    command = f"{sys.executable} -m kvsim scenarios | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["capture", "calibrate"])
def test_without_torch_a_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = {
        "capture": ["--model", "m", "--text", "t", "-o", "o.kvtrace"],
        "calibrate": ["--shape", "llama-3-8b", "-o", "o.toml"],
    }
    line = refusal(capsys, command, *arguments[command])
    needed, _, install = line.partition(": pip install ")
    assert needed == f"{command} needs torch and transformers"
    packages = {re.match(r"[a-z]+", word).group() for word in shlex.split(install)}  # type: ignore[union-attr]
    assert {"torch", "transformers"} <= packages
    assert "kvsim" not in packages  # which is on no index


def test_scenarios_lists_what_ships_with_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["scenarios"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("long_context ") and "Llama-3-8B" in line for line in lines)
    assert any(line.startswith("smollm2_cpu ") for line in lines)


def test_init_writes_a_scenario_that_is_valid_and_refuses_to_overwrite_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command(["init", "deep/mine"]) == 0
    capsys.readouterr()
    path = tmp_path / "deep" / "mine.toml"
    assert tomllib.loads(path.read_text())["name"] == "mine"
    path.write_text("precious")
    assert refusal(capsys, "init", "deep/mine").startswith("deep/mine.toml: already there; ")
    assert path.read_text() == "precious"


def test_init_refuses_a_name_that_no_scenario_can_have(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert refusal(capsys, "init", "a b").startswith("a b.toml: name: should be up to 64 letters")
    assert list(tmp_path.iterdir()) == []


SMALL = [
    *("--set", "trace.num_steps=12", "--set", "run.warmup_steps=2", "--set", "page_tokens=64"),
    *("--set", "trace.extrapolate.context_tokens=[4096, 5120]", "--set", "budget.context_frac=0.7"),
]


def test_run_prints_table_and_verdict_and_keeps_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["run", "long_context", *SMALL, "--no-figures", "-o", "out"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no progress bar where there is no terminal
    (folder,) = (tmp_path / "out" / "long_context").iterdir()
    assert {file.name for file in folder.iterdir()} == {"manifest.json", "rows.parquet", "summary.json"}
    summary = json.loads((folder / "summary.json").read_text())
    assert [cell["policy"] for cell in summary["cells"]] == ["resident", "stream", "lru", "attention"] * 2
    printed = " ".join(captured.out.split())
    for words in ("resident", "attention", "published", *summary["verdict"]):
        assert " ".join(words.split()) in printed
    assert f"result: {folder.relative_to(tmp_path)}" in captured.out

    assert run_command(["show", str(folder)]) == 0
    assert capsys.readouterr().out in captured.out


def test_json_is_the_summary_and_equal_runs_print_equal_bytes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    texts = []
    for _ in range(2):
        assert run_command(["run", "long_context", *SMALL, "--no-figures", "--json", "-o", "out"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    folder = max((tmp_path / "out" / "long_context").iterdir())
    assert run_command(["show", str(folder), "--json"]) == 0
    assert capsys.readouterr().out == texts[0] == (folder / "summary.json").read_text()


def test_figures_are_drawn_unless_declined(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["run", "long_context", *SMALL, "-o", "out"]) == 0
    pictures = sorted((tmp_path / "out").rglob("*.png"))
    printed = capsys.readouterr().out
    assert len(pictures) >= 3
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert str(picture.relative_to(tmp_path)) in printed


ONE_CELL = ["--set", "run.policies=lru", "--set", "trace.extrapolate.context_tokens=4096"]


def test_check_says_fine_and_how_many_cells(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", "long_context", *SMALL]) == 0
    assert capsys.readouterr().out.endswith("long_context.toml: fine, 8 cells\n")


def test_check_tells_a_budget_below_the_minimum(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "check", "long_context", *ONE_CELL, "--set", "budget.pages_per_layer=2")
    assert "below the minimum" in line
    assert "set budget.pages_per_layer to at least" in line


def test_check_tells_an_unknown_policy_and_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "check", "long_context", "--set", "run.policies=lur")
    assert "unknown policy 'lur'; did you mean 'lru'?" in line


def test_profile_show_prints_every_cost_and_draws_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["profile", "show", "h200-llama-3-8b-published", "-o", "pictures"]) == 0
    printed = capsys.readouterr().out
    assert "segments.attention " in printed
    name = "pictures/profile-h200-llama-3-8b-published"
    assert printed.endswith(f"picture: {name}.png\nreport: {name}.html\n")
    assert (tmp_path / "pictures" / "profile-h200-llama-3-8b-published.png").read_bytes().startswith(b"\x89PNG")


def test_trace_info_prints_how_predictable_a_trace_is_and_draws_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command(["trace", "info", "smollm2-docs", "--page-tokens", "64", "-o", "pictures"]) == 0
    printed = capsys.readouterr().out
    assert "pages of 64 tokens" in printed
    assert "estimate:quest" in printed
    assert (tmp_path / "pictures" / "trace-smollm2-docs.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_can_be_declined(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["trace", "info", "smollm2-docs", "--no-figures"]) == 0
    assert run_command(["profile", "show", "h200-llama-3-8b-published", "--no-figures"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_trace_fit_writes_parameters_and_compares(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["trace", "fit", "smollm2-docs", "-o", "fit.toml", "--page-tokens", "64"]) == 0
    printed = capsys.readouterr().out
    assert "statistic" in printed
    assert "generator" in printed
    assert len(tomllib.loads((tmp_path / "fit.toml").read_text())["layers"]) == 30


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["profile", "show", "h200"], "h200: no profile of this name ships with kvsim"),
        (["profile", "show", "none.toml"], "none.toml: no such profile file"),
        (["trace", "info", "smollm2-doc"], "smollm2-doc: no capture of this name ships with kvsim; did you mean"),
        (["trace", "info", "smollm2-docs", "--page-tokens", "17"], ""),
        (["trace", "info", "smollm2-docs", "--page-tokens", "0"], ""),
        (["trace", "fit", "smollm2-docs", "-o", "x.toml", "--channel", "estimate:qest"], ""),
        (["show", "nowhere"], "nowhere: no such result folder"),
    ],
)
def test_a_wrong_file_or_option_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert refusal(capsys, *arguments).startswith(line)


@pytest.mark.model
def test_capture_writes_a_trace_that_says_how_it_was_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("One page, two pages, three pages and a token. " * 20)
    arguments = ["capture", "--model", str(model_path), "--text", "text.txt", "-o", "mine.kvtrace"]
    arguments += ["--prompt-tokens", "96", "--decode-tokens", "3", "--channel", "estimate:quest@32"]
    monkeypatch.setattr("sys.argv", ["kvsim", *arguments])
    assert run_command(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == "mine.kvtrace: written; see `kvsim trace info mine.kvtrace`\n"
    assert captured.err.startswith("capturing 3 steps: about ")
    assert captured.err.count("\n") == 1  # sizes, and no progress bar where there is no terminal
    assert run_command(["trace", "info", "mine.kvtrace", "--no-figures"]) == 0
    printed = capsys.readouterr().out
    assert "3 steps, 30 layers" in printed
    assert f"recipe: {shlex.join(['kvsim', *arguments])}" in printed


def test_calibrate_passes_on_what_was_asked_and_writes_the_profile(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    asked: dict[str, Any] = {}

    def measured(model: str | None, **options: Any) -> Any:
        asked.update(options, model=model)
        return load_profile(find_profile("h200-llama-3-8b-published")).model_copy(update={"name": options["name"]})

    monkeypatch.setattr("kvsim.experiments.calibrate.calibrate", measured)
    arguments = ["calibrate", "--shape", "llama-3-8b", "--dtype", "fp32", "--bandwidth", "0.5 GB", "--quick"]
    assert run_command([*arguments, "-o", "profiles/mine.toml"]) == 0
    assert load_profile(tmp_path / "profiles" / "mine.toml").name == "mine"
    wanted = {"model": None, "shape": "llama-3-8b", "dtype": "fp32", "device": "cpu", "quick": True}
    assert {name: asked[name] for name in wanted} == wanted
    assert asked["bandwidth_bytes_per_s"] == 500_000_000
    assert capsys.readouterr().out.startswith("profiles/mine.toml: written; ")


def test_calibrate_without_a_gpu_says_so_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, so nothing to refuse")
    line = refusal(capsys, "calibrate", "--device", "cuda", "--shape", "llama-3-8b", "-o", "x.toml")
    assert line.startswith("no CUDA device: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give a model or a shape"),
        (
            ["--shape", "lama-3-8b"],
            "model 'lama-3-8b': no such path, and no model that ships; did you mean 'llama-3-8b'?",
        ),
        (["--shape", "llama-3-8b", "--bandwidth", "fast"], "'fast' is no size: write a number and one of"),
        (["--shape", "llama-3-8b", "--bandwidth", "0"], ""),
        (["--model", "/nowhere"], "/nowhere: no such folder or file"),
    ],
)
def test_calibrate_refuses_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    pytest.importorskip("torch")
    assert refusal(capsys, "calibrate", *arguments, "-o", "x.toml").startswith(line)


@pytest.mark.parametrize("control", ["\x1b[2J", "\x9b2J", "\x07", "\r", "\u202e"])
def test_what_a_terminal_would_obey_is_written_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, control: str
) -> None:
    shown = f"\\u{ord(control[0]):04x}{control[1:]}"
    assert f"nosuch{shown}: no scenario" in refusal(capsys, "run", f"nosuch{control}")
    scenario = find_scenario("smollm2_cpu").read_text()
    labelled = f"run.policies=[{{name='lru', label={json.dumps(f'my{control}')}}}]"
    changes = ["budget.pages_per_layer=24", "trace.num_steps=12", labelled]
    (tmp_path / "x.toml").write_text(scenario)
    overrides = [word for change in changes for word in ("--set", change)]
    assert run_command(["run", "x.toml", *overrides, "--no-figures", "-o", "."]) == 0
    printed = capsys.readouterr().out
    assert control not in printed
    assert "my" in printed
    assert run_command(["run", "x.toml", *overrides, "--no-figures", "-o", ".", "--json"]) == 0
    printed = capsys.readouterr().out
    assert control not in printed
    assert {cell["policy"] for cell in json.loads(printed)["cells"]} == {f"my{control}"}


def test_a_simulation_starts_no_threads_for_linear_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, stated, expected in [
        (["run", "smollm2_cpu"], None, "1"),
        (["run", "smollm2_cpu"], "4", "4"),
        (["measure", "smollm2_cpu"], None, None),
        ([], None, "1"),
    ]:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        if stated is not None:
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", stated)
        use_one_thread(arguments)
        assert os.environ.get("OPENBLAS_NUM_THREADS") == expected, arguments
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
