"""The command line: `python -m cgs <command>`. Every rule of the workflow calls one of these."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from cgs.config import Config, load_config, parse_config
from cgs.discovery import ROOT, available_methods
from cgs.errors import SuiteError, did_you_mean, plain, sentence
from cgs.paths import Paths
from cgs.plan import ALL, Cell, cells


def main(arguments: list[str] | None = None) -> int:
    """Run one command. 0 on success; 1 and one sentence on stderr when something is wrong."""
    options = parser().parse_args(arguments)
    try:
        result = options.run(options)
    except SuiteError as error:
        print(f"cgs {options.command}: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"cgs {options.command}: {error.strerror or error}{where}; check that the place exists, can be written "
            "and has room.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"cgs {options.command}: stopped by the user.", file=sys.stderr)
        return 130
    return int(result or 0)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m cgs", description=__doc__.split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: Any, help_: str, *, config: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=run)
        if config:
            sub.add_argument(
                "--config", required=True, type=Path, help="YAML file, see docs/configuration.md"
            )
        return sub

    sub = command("prepare", prepare, "Read a dataset, check it and write its slices, cases and audit.")
    sub.add_argument("--dataset", required=True)
    sub.add_argument("--path", type=Path, help="where the dataset lies, if the config does not say")
    sub.add_argument("--processes", type=int, help="processes that read (default: all cores)")
    for name, run, help_ in (
        ("train", train, "Train one method with one seed; resumes where an earlier attempt stopped."),
        ("predict", predict, "Predict the test cases of a trained run."),
        ("prompt", prompt, "Predict the test cases by a promptable model of yours."),
        ("ensemble", ensemble, "Predict the test cases by an ensemble of trained runs."),
        ("evaluate", evaluate, "Score the predictions of a run."),
    ):
        sub = command(name, run, help_)
        sub.add_argument("--dataset", required=True)
        sub.add_argument("--labelled", required=True, help=f'labelled patients, or "{ALL}"')
        sub.add_argument("--method", required=True)
        sub.add_argument("--seed", required=True, type=int)
        if name == "evaluate":
            sub.add_argument("--processes", type=int, default=1, help="cases scored at once (default: 1)")
        if name == "train":
            sub.add_argument("--path", type=Path, help="where the dataset lies, if the config does not say")
            sub.add_argument(
                "--record-failure",
                action="store_true",
                help="write a failure to failure.json and exit with 0, so that other runs go on",
            )
            sub.add_argument("--score", action="store_true", help="predict and score the test cases too")
    sub = command(
        "campaign", campaign, "Run the missing trainings of a config for a limited time, several at once."
    )
    sub.add_argument("--out", required=True, type=Path, help="folder that gets results/<config>/...")
    sub.add_argument("--only", nargs="+", default=[], metavar="DATASET", help="these datasets alone")
    sub.add_argument("--methods", nargs="+", default=[], help="these methods alone, in this order")
    sub.add_argument(
        "--minutes", type=float, default=math.inf, help="time after which all stop (default: none)"
    )
    sub.add_argument("--slots", type=int, default=1, help="trainings at once (default: 1)")
    sub.add_argument("--path", nargs="+", default=[], metavar="DATASET=PATH", help="where datasets lie")
    sub.add_argument(
        "--data", nargs="+", default=[], type=Path, help="the parts of a packed dataset, in order"
    )
    sub.add_argument("--shard", default="1/1", metavar="I/N", help="the I-th of N shares of the trainings")
    sub.add_argument("--have", nargs="+", default=[], type=Path, help="collected folders: not run again")
    sub = command("collect", collect, "Merge the results of campaigns into a reference folder.", config=False)
    sub.add_argument("sources", nargs="+", type=Path, help="the --out folders of campaigns")
    sub.add_argument("--into", type=Path, help="folder (default: results/reference/<config> of the checkout)")
    sub.add_argument(
        "--weights", action="store_true", help="keep the weights of each cell's best seed, to 8 MB"
    )
    sub = command("merge", merge, "Merge the results of machines that share nothing.", config=False)
    sub.add_argument("sources", nargs="+", type=Path, help="folders that hold results/<config>")
    sub.add_argument("--into", required=True, type=Path)
    sub = command("pack", pack, "Compress a prepared dataset into files to take elsewhere.")
    sub.add_argument("--dataset", required=True)
    sub.add_argument("--path", type=Path, help="where the dataset lies, if the config does not say")
    sub.add_argument("--out", required=True, type=Path, help="the parts are called <out>.000, <out>.001 ...")
    sub.add_argument("--part", type=int, default=60, help="megabytes a part at most (default: 60)")
    for name, run, help_ in (
        ("tables", tables, "Gather the scores of all runs into tables."),
        ("report", report, "Render the report from the tables; with --have, gather them first."),
    ):
        sub = command(name, run, help_)
        sub.add_argument("--only", default="", metavar="TARGET", help="one target of `python -m cgs targets`")
        sub.add_argument(
            "--have",
            nargs="+",
            default=[],
            type=Path,
            help="collected folders: results of cells without a run",
        )
    sub = command("compare", compare, "Say what differs between two results folders.", config=False)
    sub.add_argument("first", type=Path, help="results/<config>, or a folder of results/reference")
    sub.add_argument("second", type=Path)
    sub.add_argument("--metric", default="dice", choices=("dice", "jaccard", "hd95", "asd", "assd", "nsd"))
    sub.add_argument("--convention", default="field", choices=("field", "strict"))
    sub.add_argument("--selection", default="best", choices=("best", "last"))
    sub.add_argument("--csv", type=Path, help="write the comparison there too")
    sub = command("targets", targets, "List the trainings of a config and how long they take.", config=False)
    sub.add_argument(
        "--config", type=Path, default=ROOT / "config" / "paper.yaml", help="YAML file (default: the paper)"
    )
    command("retry", retry, "Forget failed runs, so that the next snakemake trains them again.")
    sub = command("plan", plan, "Check a config (JSON on stdin) and print what is to be run.", config=False)
    command("methods", methods, "List the methods.", config=False)
    sub = command(
        "new-baseline", new_baseline, "Write the skeleton of a new method into baselines/.", config=False
    )
    sub.add_argument("name", help="its name in configs: small letters, digits and hyphens")
    sub = command("schema", schema, "Write the presets, the JSON schema and the docs table.", config=False)
    return top


def dataset_of(config: Config, name: str) -> Any:
    """The dataset entry called `name`."""
    if name not in config.datasets:
        raise SuiteError(
            sentence(f"the config has no dataset {name!r}{did_you_mean(name, list(config.datasets))}")
        )
    return config.datasets[name]


def config_of(options: argparse.Namespace) -> Config:
    """The config that the command line names, with `--path` as the path of its dataset."""
    config = load_config(options.config)
    if getattr(options, "path", None) is None:
        return config
    dataset_of(config, options.dataset)
    values = config.model_dump(mode="json")
    values["datasets"][options.dataset]["path"] = str(options.path)
    return parse_config(values, str(options.config))


def cell_of(options: argparse.Namespace) -> tuple[Config, Cell, Paths]:
    """The config and the run that the command line names."""
    config = config_of(options)
    cell = Cell(options.dataset, options.labelled, options.method, options.seed)
    dataset = dataset_of(config, cell.dataset)
    kinds = {"ensemble": [*config.ensembles], "prompt": [*config.promptable]}
    names = kinds.get(options.command, [*available_methods(), *config.variants])
    if options.command == "evaluate":
        names = [*names, *config.ensembles, *config.promptable]
    if cell.method not in names:
        known = sorted(names)
        raise SuiteError(sentence(f"method {cell.method!r} does not exist{did_you_mean(cell.method, known)}"))
    if cell.labelled != ALL and cell.method not in config.promptable:
        from cgs.dataset_config import training_patients

        patients = training_patients(dataset)
        if not cell.labelled.isdecimal() or not 1 <= int(cell.labelled) <= (patients or int(cell.labelled)):
            raise SuiteError(
                f"--labelled {cell.labelled}: give a number of patients from 1 to {patients or 'all'}, or {ALL}."
            )
    return config, cell, Paths(config.name)


def prepare(options: argparse.Namespace) -> None:
    from cgs.data.prepare import prepare as run

    config = config_of(options)
    dataset = dataset_of(config, options.dataset)
    processes = getattr(options, "processes", None)
    paths = Paths(config.name)
    run(options.dataset, dataset, paths.data(options.dataset), processes, paths.downloads)


def train(options: argparse.Namespace) -> int:
    from cgs.engine.display import Display
    from cgs.engine.train import train as run
    from cgs.preparation import prepared

    config, cell, paths = cell_of(options)
    if not prepared(config, paths, cell.dataset):
        prepare(options)
    complete = run(config, cell, paths, Display, keep_failure=options.record_failure)
    if complete and options.score:
        options.processes = 1
        predict(options)
        evaluate(options)
    return 0 if complete or options.record_failure else 1


def predict(options: argparse.Namespace) -> None:
    from cgs.evaluation.predict import predict as run

    run(*cell_of(options))


def ensemble(options: argparse.Namespace) -> None:
    from cgs.evaluation.ensemble import ensemble as run

    run(*cell_of(options))


def prompt(options: argparse.Namespace) -> None:
    from cgs.evaluation.promptable import prompt_test_cases

    prompt_test_cases(*cell_of(options))


def evaluate(options: argparse.Namespace) -> None:
    from cgs.evaluation.score import score_run

    config, cell, paths = cell_of(options)
    folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
    score_run(paths.data(cell.dataset), folder, config.evaluation, cell, max(options.processes, 1))


def campaign(options: argparse.Namespace) -> None:
    from cgs.campaign import campaign as run

    config = load_config(options.config)
    places = {}
    for text in options.path:
        name, separator, path = text.partition("=")
        dataset_of(config, name)
        if not separator or not path:
            raise SuiteError(f"--path {text}: give a dataset and its place, as acdc=PATH.")
        places[name] = Path(path)
    if options.slots < 1 or not options.minutes > 0:
        raise SuiteError("--slots and --minutes must be positive.")
    run(
        config,
        options.out,
        minutes=options.minutes,
        slots=options.slots,
        only=options.only,
        methods=options.methods,
        have=options.have,
        shard=shard_of(options.shard),
        places=places,
        packed=options.data,
    )


def shard_of(text: str) -> tuple[int, int]:
    """I/N as (I, N). Raises SuiteError."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise SuiteError(f"--shard {text}: give a part and their number, as 1/4.")
    return int(number), int(of)


def merge(options: argparse.Namespace) -> None:
    from cgs.merge import merge as run

    print(run(options.sources, options.into))


def collect(options: argparse.Namespace) -> None:
    from cgs.analysis.reference import collect as run

    print(run(options.sources, options.into or reference_of(options.sources), weights=options.weights))


def reference_of(sources: list[Path]) -> Path:
    """Where the results of one config are kept unless the user says otherwise. Raises SuiteError for several."""
    from cgs.analysis.kept import REFERENCE

    names = sorted({path.parent.name for s in sources for path in s.glob("results/*/config.yaml")})
    if len(names) > 1:
        raise SuiteError(f"These are results of {', '.join(names)}; collect each --into a folder of its own.")
    return REFERENCE / "".join(names)


def pack(options: argparse.Namespace) -> None:
    from cgs.data.pack import pack as run
    from cgs.preparation import prepared

    if options.part < 1:
        raise SuiteError(f"--part {options.part}: give the megabytes of a part, 1 or more.")
    config = config_of(options)
    dataset_of(config, options.dataset)
    paths = Paths(config.name)
    if not prepared(config, paths, options.dataset):
        prepare(options)
    for part in run(paths.data(options.dataset), options.out, options.part):
        print(f"{part} ({part.stat().st_size / 1e6:.1f} MB)")


def part_of(options: argparse.Namespace) -> tuple[Config, Paths]:
    """The config, or the part of it that `--only` names, and its places."""
    config = load_config(options.config)
    if options.only:
        return config.only(options.only), Paths(config.name, part=options.only)
    return config, Paths(config.name)


def tables(options: argparse.Namespace) -> None:
    from cgs.analysis.tables import write_tables

    write_tables(*part_of(options), options.have)


def report(options: argparse.Namespace) -> None:
    from cgs.report.page import render

    if options.have:  # A page shows its tables, and these then come from elsewhere.
        tables(options)
    print(f"The report is {render(*part_of(options))}")


def compare(options: argparse.Namespace) -> None:
    from cgs.analysis.compare import as_text
    from cgs.analysis.compare import compare as run

    table = run(options.first, options.second, options.metric, options.convention, options.selection)
    if options.csv:
        from cgs.analysis.spreadsheet import inert
        from cgs.files import atomic_path

        with atomic_path(options.csv) as temporary:
            inert(table).to_csv(temporary, index=False)
    print(as_text(table, options.metric))


def targets(options: argparse.Namespace) -> None:
    from cgs.analysis.cost import table

    print(table(load_config(options.config)))


def retry(options: argparse.Namespace) -> None:
    config = load_config(options.config)
    paths = Paths(config.name)
    failed = [
        cell
        for cell in cells(config)
        if (paths.run(cell.dataset, cell.labelled, cell.method, cell.seed) / "failure.json").is_file()
    ]
    for cell in failed:
        folder = paths.run(cell.dataset, cell.labelled, cell.method, cell.seed)
        for name in ("provenance.json", "failure.json", "predictions.npz", "scores.csv"):
            (folder / name).unlink(missing_ok=True)
        print(f"{cell} will be trained again")
    print(f"{len(failed)} failed runs forgotten; start snakemake again.")


def plan(options: argparse.Namespace) -> None:
    from cgs.workplan import work_plan

    try:
        values = json.load(sys.stdin)
    except (ValueError, RecursionError) as error:
        raise SuiteError(
            f"stdin holds no JSON ({plain(error)}); Snakemake gives the merged config."
        ) from None
    print(json.dumps(work_plan(values)))


def methods(options: argparse.Namespace) -> None:
    from cgs.engine.method import all_methods

    for name, method in all_methods().items():
        print(f"{name:<20} {method.title:<20} {method.reference}")


def new_baseline(options: argparse.Namespace) -> None:
    from cgs.skeleton import new_baseline as write

    path = write(options.name)
    print(f"{path} is a method that works already; make it yours, then:")
    print(f"  python -m pytest tests/test_conformance.py -k {options.name}")
    print(f"  add {options.name} to `methods` in a config (docs/adding-a-baseline.md)")


def schema(options: argparse.Namespace) -> None:
    from cgs.schema import write_all

    for path in write_all(ROOT):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
