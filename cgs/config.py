"""The typed configuration; this module and `dataset_config` are the only places that know the suite's defaults.

Everything a YAML file may say is a field here; the commented presets, the JSON schema and the table in
`docs/configuration.md` are generated from these models (`python -m cgs schema`). The options of a
method live beside the method, as its `Options` model. This module must not import torch: Snakemake,
the tables and the report load it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cgs.bounds import LIST, read_bounded
from cgs.dataset_config import (
    KINDS,
    DatasetConfig,
    FilesBase,
    Name,
    Strict,
    no_repeats,
    training_patients,
)
from cgs.discovery import available_methods
from cgs.errors import SuiteError, did_you_mean, plain, sentence

ENSEMBLE = "ensemble"
PROMPTABLE = "promptable"
"""What stand for an ensemble and for a promptable model where a method is asked for."""
UNTRAINED = (ENSEMBLE, PROMPTABLE)

UNREADABLE = (
    OSError,
    yaml.YAMLError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
)
"""What reading YAML raises: of values that do not fit their tag, PyYAML lets through what Python says."""


class NetworkConfig(Strict):
    """The network that methods share; a variant may have another one."""

    kind: Literal["unet", "transunet"] = Field("unet", description="2D U-Net, or TransUNet (R50+ViT-B/16).")
    width: int = Field(
        16, ge=4, le=64, description="Channels of the U-Net's first level; 16 is the published U-Net."
    )
    weights: Path | None = Field(
        None, description="TransUNet: file R50+ViT-B_16.npz (ImageNet-21k) to start from; none: random."
    )


class TrainingConfig(Strict):
    """The one training protocol that all methods share."""

    iterations: int = Field(30000, ge=1, le=10**9, description="Iterations of a training.")
    labelled_batch: int = Field(12, ge=2, le=10**6, description="Labelled slices in a batch.")
    unlabelled_batch: int = Field(12, ge=2, le=10**6, description="Unlabelled slices in a batch.")
    learning_rate: float = Field(0.01, gt=0, description="Initial learning rate of SGD.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of SGD.")
    poly_power: float = Field(0.9, gt=0, description="Power of the polynomial learning rate decay.")
    validate_every: int = Field(200, ge=1, description="Iterations between two validations.")
    checkpoint_every: int = Field(1000, ge=1, description="Iterations between two resume points.")
    log_every: int = Field(50, ge=1, description="Iterations between two logged losses.")
    pseudo_label_slices: int = Field(
        64,
        ge=0,
        description="Unlabelled slices on which the quality of pseudo-labels is watched at each validation, by labels "
        "that the loss never sees; 0: none. A training that is complete keeps the log that it has.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (CUDA where there is one), cpu, cuda or cuda:N.",
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="Arithmetic of the networks; losses are always float32."
    )
    threads: int = Field(1, ge=1, description="CPU threads of one training.")
    deterministic: bool = Field(
        True, description="Ask torch for deterministic kernels (two CUDA runs agree bit for bit)."
    )
    gpu_slots: int = Field(1, ge=1, description="Trainings that may share one GPU.")


class EvaluationConfig(Strict):
    """How predictions are scored."""

    conventions: tuple[Literal["field", "strict"], ...] = Field(
        ("field", "strict"),
        min_length=1,
        description="field: as the literature (voxel units); strict: millimetres, symmetric.",
    )
    selections: tuple[Literal["best", "last"], ...] = Field(
        ("best", "last"),
        min_length=1,
        description="Checkpoints that are tested: best on validation, last. The first one leads.",
    )
    nsd_tolerance_mm: float = Field(
        2.0, gt=0, description="Tolerance of the normalised surface Dice in millimetres."
    )
    _differ = field_validator("conventions", "selections")(no_repeats)


class ReportConfig(Strict):
    """What the report shows beyond the tables."""

    title: str = Field("Semi-supervised multi-target segmentation", min_length=1, description="Title.")
    overlay_cases: int = Field(
        2,
        ge=0,
        le=20,
        description="Test cases shown as overlays: the reference method's median and worst one, then its best.",
    )


def own_title() -> Any:
    return Field(None, min_length=1, description="As the report names it; without one, by its own name.")


class Variant(BaseModel):
    """A method under a name of its own, with some of its options changed.

    Every key besides those named here is an option of the method. A variant that has the name of the method it
    extends changes the options of that method for the whole config.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    extends: str = Field(description="Method, or other variant, that this one builds on.")
    network: NetworkConfig | None = Field(None, description="Network of its own, in place of the config's.")
    title: str | None = own_title()

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Ensemble(Strict):
    """Trained methods that predict together; nothing is trained for it."""

    members: tuple[str, ...] = Field(
        min_length=2, description="Methods or variants, trained with the same labels and seed."
    )
    rule: Literal["average", "confident", "vote"] = Field(
        description="average: of the probabilities; confident: the label of the member that is surest of the pixel; "
        "vote: the label of most members, at a tie that of the highest mean probability among them."
    )
    title: str | None = own_title()
    _differ = field_validator("members")(no_repeats)


TAKEN = (
    "all",
    "prepare",
    "train",
    "predict",
    "ensemble",
    "prompt",
    "evaluate",
    "tables",
    "page",
    "figures",
    "latex",
)
"""Names that no experiment may have: rules of the workflow, and folders beside the report."""


class Promptable(Strict):
    """A zero-shot model that is prompted slice by slice (SAM and its kin); code and weights are the user's."""

    code: str = Field(
        pattern=r".+\.py:\w+$", description="Python file and function that loads the model, as sam.py:load."
    )
    weights: Path = Field(description="File of the weights.")
    prompt: Literal["box", "point"] = Field(
        "box", description="Prompt for every target of a slice, from the reference label."
    )
    margin: int = Field(5, ge=0, description="Pixels by which a box is wider than the target, on each side.")
    title: str | None = own_title()


class Experiment(Strict):
    """An ablation or analysis: trainings of its own beside the main tables, and a part of the report."""

    title: str = Field(min_length=1, description="As the report names it.")
    row: str = Field("", description="Row of the paper's list that it regenerates: A1, L2 ...")
    claim: str = Field("", description="What the paper says, shown beside what was measured.")
    view: Literal["scores", "cost", "classes", "pseudo-labels", "balance"] = Field(
        "scores", description="What the report shows of it beside the scores of its methods."
    )
    datasets: tuple[str, ...] = Field((), description="Datasets; none: those of the main tables.")
    labelled: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Numbers of labelled patients; none: those of each dataset."
    )
    methods: tuple[str, ...] = Field(
        (), description="Methods, variants and ensembles; the first is the one that others are compared with."
    )
    against: Literal["first", "extended"] = Field(
        "first",
        description="What a method is compared with. first: the first of `methods`; extended: a variant with what it "
        "extends, nothing else.",
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (), description="Seeds; none: those of the config."
    )
    _differ = field_validator("datasets", "labelled", "methods", "seeds")(no_repeats)


class Config(Strict):
    """One experiment: datasets x labelled patients x methods x seeds, and how to train and test."""

    name: Name = Field(description="Name of the config; results/<name> and reports/<name> are its.")
    datasets: dict[Name, DatasetConfig] = Field(min_length=1, description="Datasets by name.")
    methods: tuple[str, ...] = Field(
        (), description="Methods, variants and ensembles of the main tables; see `python -m cgs methods`."
    )
    reference: str = Field("cgs", description="Method that the others are compared with in the report.")
    variants: dict[Name, Variant] = Field(
        default_factory=dict, description="Methods with changed options, by name."
    )
    ensembles: dict[Name, Ensemble] = Field(
        default_factory=dict, description="Ensembles of trained methods, by name."
    )
    promptable: dict[Name, Promptable] = Field(
        default_factory=dict, description="Zero-shot models whose weights you supply, by name."
    )
    experiments: dict[Name, Experiment] = Field(
        default_factory=dict, description="Ablations and analyses beside the main tables, by name."
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds; every cell is trained once per seed."
    )
    network: NetworkConfig = Field(NetworkConfig(), description="Network.")
    training: TrainingConfig = Field(TrainingConfig(), description="Training.")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="Evaluation.")
    report: ReportConfig = Field(ReportConfig(), description="Report.")

    _differ = field_validator("methods", "seeds")(no_repeats)

    @model_validator(mode="after")
    def _cross_checks(self) -> Config:
        for name, dataset in self.datasets.items():
            other = dataset.files_of if isinstance(dataset, FilesBase) else None
            if other is not None and (
                other == name or not isinstance(self.datasets.get(other), type(dataset))
            ):
                raise ValueError(f"datasets.{name}.files_of: {other!r} is no other entry of the same kind")
            patients = training_patients(dataset)
            most = max(dataset.labelled)
            if patients is not None and most > patients:
                raise ValueError(
                    f"datasets.{name}.labelled: {most} labelled patients are more than the {patients} "
                    f"training patients; give at most {patients}"
                )
        for variant, entry in self.variants.items():
            self._base_of(variant)
            if variant in available_methods() and entry.extends != variant:
                raise ValueError(
                    f"variants.{variant}: has the name of a method but extends {entry.extends}; "
                    "choose another name"
                )
        if not self.methods and not self.experiments:
            raise ValueError("methods: name at least one method, or an experiment")
        for method in (*self.methods, self.reference):
            self._base_of(method)
        self._check_ensembles()
        self._check_experiments()
        return self

    def _check_ensembles(self) -> None:
        taken = {*available_methods(), *self.variants, ENSEMBLE, PROMPTABLE}
        for name in (*self.ensembles, *self.promptable):
            if name in taken or (name in self.ensembles and name in self.promptable):
                kind = "ensembles" if name in self.ensembles else "promptable"
                raise ValueError(f"{kind}.{name}: has the name of a method; choose another name")
        for name, ensemble in self.ensembles.items():
            for member in ensemble.members:
                if self._base_of(member)[0] in UNTRAINED:
                    raise ValueError(f"ensembles.{name}: {member} is not trained; name methods or variants")

    def _check_experiments(self) -> None:
        for name, experiment in self.experiments.items():
            where = f"experiments.{name}"
            if name.startswith("table-"):
                raise ValueError(f"{where}: names that begin with table- are those of the main tables")
            if name in TAKEN:
                raise ValueError(f"{where}: that name is taken; choose another one")
            for method in experiment.methods:
                self._base_of(method)
                other = self.compared_with(name, method)
                if other is not None and other not in experiment.methods:
                    raise ValueError(
                        f"{where}.methods: {method} is to be compared with {other}; name that too"
                    )
            for dataset in experiment.datasets:
                if dataset not in self.datasets:
                    raise ValueError(
                        f"{where}: no dataset {dataset!r}{did_you_mean(dataset, list(self.datasets))}"
                    )
            for dataset in self.datasets_of(name):
                patients = training_patients(self.datasets[dataset])
                if patients is not None and max(experiment.labelled, default=1) > patients:
                    raise ValueError(f"{where}.labelled: {dataset} has {patients} training patients")

    @property
    def main_datasets(self) -> tuple[str, ...]:
        """Names of the datasets of the main tables."""
        return tuple(name for name, dataset in self.datasets.items() if dataset.main_table)

    def datasets_of(self, experiment: str) -> tuple[str, ...]:
        """Names of the datasets of an experiment."""
        return self.experiments[experiment].datasets or self.main_datasets

    @property
    def every_method(self) -> tuple[str, ...]:
        """All that the config trains or combines: main tables, then experiments, then members of ensembles."""
        named = [*self.methods, *(m for e in self.experiments.values() for m in e.methods)]
        members = [m for n in named if n in self.ensembles for m in self.ensembles[n].members]
        return tuple(dict.fromkeys([*named, *members]))

    def network_of(self, name: str) -> NetworkConfig:
        """The network of a method or variant."""
        seen: list[str] = []
        while name in self.variants and name not in seen:
            seen.append(name)
            variant = self.variants[name]
            if variant.network is not None:
                return variant.network
            name = variant.extends
        return self.network

    def compared_with(self, experiment: str, method: str) -> str | None:
        """The method that `method` is compared with in an experiment; None for one that others are compared with."""
        entry = self.experiments[experiment]
        if entry.against == "extended":
            other = self.variants[method].extends if method in self.variants else method
        else:
            other = entry.methods[0]
        return None if other == method else other

    def only(self, target: str) -> Config:
        """The part of the config that a named target is about: `table-<dataset>` or an experiment.

        Raises SuiteError for a name that is neither.
        """
        tables = {f"table-{name}": name for name in self.main_datasets}
        if target in tables:
            kept, experiments, methods = {tables[target]}, {}, self.methods
        elif target in self.experiments:
            kept, experiments, methods = (
                set(self.datasets_of(target)),
                {target: self.experiments[target]},
                (),
            )
        else:
            known = [*tables, *self.experiments]
            raise SuiteError(sentence(f"the config has no target {target!r}{did_you_mean(target, known)}"))
        datasets = {name: dataset for name, dataset in self.datasets.items() if name in kept}
        return self.model_copy(update={"datasets": datasets, "experiments": experiments, "methods": methods})

    def _base_of(self, name: str) -> tuple[str, dict[str, Any]]:
        """Follow `extends` from `name` to a method; later options win."""
        options: dict[str, Any] = {}
        seen: list[str] = []
        current = name
        while current in self.variants and current not in seen:
            seen.append(current)
            variant = self.variants[current]
            options = {**variant.options, **options}
            if variant.extends == current:
                break
            current = variant.extends
        if current in self.ensembles or current in self.promptable:
            if seen:
                raise ValueError(f"variants.{seen[-1]}: extends {current}, which is not trained")
        if current in self.promptable:
            return PROMPTABLE, {"prompt": self.promptable[current].prompt}
        if current in self.ensembles:
            ensemble = self.ensembles[current]
            return ENSEMBLE, {"members": list(ensemble.members), "rule": ensemble.rule}
        if current not in available_methods():
            if current in seen:
                raise ValueError(f"variants: {' -> '.join([*seen, current])} never reaches a method")
            known = sorted({*available_methods(), *self.variants, *self.ensembles, *self.promptable})
            raise ValueError(f"method {current!r} does not exist{did_you_mean(current, known)}")
        return current, options

    def method_and_options(self, name: str) -> tuple[str, dict[str, Any]]:
        """The method that `name` stands for and the options that differ from its defaults.

        An ensemble stands for ENSEMBLE, with its members and rule, a promptable model for PROMPTABLE.
        """
        return self._base_of(name)


def _sentence(error: ValidationError, source: str) -> str:
    """One sentence from pydantic's report: where, what, how to mend."""
    parts = []
    for item in error.errors():
        location = list(item["loc"])
        if location[:1] == ["datasets"] and len(location) > 3:
            del location[2]  # pydantic names the kind of the dataset there.
        where = plain(".".join(map(str, location)))
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key {where!r}{_nearest_key(item['loc'])}")
        elif item["type"] == "missing":
            parts.append(f"{where!r} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = (
                f" (given: {_short(item['input'])})" if isinstance(item["input"], str | int | float) else ""
            )
            parts.append(f"{where}: {plain(message)}{given}" if where else plain(message))
    return sentence(f"{source}: {'; '.join(parts)}")


def _short(value: object) -> str:
    """A value as a sentence quotes it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits.
        text = "a number of thousands of digits"
    return text if len(text) < 100 else f"{text[:90]} ..."


def _nearest_key(location: tuple[int | str, ...]) -> str:
    model: Any = Config
    for step in location[:-1]:
        if hasattr(model, "model_fields"):
            field = model.model_fields.get(str(step))
            model = field.annotation if field else None
        elif step in KINDS and get_origin(model) is Annotated:  # pydantic names the kind of a dataset there.
            model = KINDS[str(step)]
        elif get_origin(model) is dict:
            model = get_args(model)[1]
        else:
            model = None
        model = (
            next((m for m in get_args(model) if hasattr(m, "model_fields")), model)
            if _optional(model)
            else model
        )
    fields = getattr(model, "model_fields", None)
    return did_you_mean(str(location[-1])[:99], sorted(fields)) if fields else ""


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def parse_config(values: dict[str, Any], source: str = "config") -> Config:
    """Check a parsed YAML mapping. Raises SuiteError with one sentence that names every fault.

    A top-level key that is the name of a dataset gives that dataset's path (`--config acdc=PATH`).
    """
    if not isinstance(values, dict):
        raise SuiteError(f"{source} must be a mapping of keys to values.")
    values = dict(values)
    datasets = values.get("datasets")
    if isinstance(datasets, dict):
        datasets = {k: dict(v) if isinstance(v, dict) else v for k, v in datasets.items()}
        for name in [n for n in datasets if n in values and n not in Config.model_fields]:
            if isinstance(datasets[name], dict):
                datasets[name]["path"] = values.pop(name)
        share_files(datasets)
        values["datasets"] = datasets
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise SuiteError(_sentence(error, source)) from None


def share_files(datasets: dict[str, Any]) -> None:
    """Give every entry with `files_of` the files of the entry that it names."""
    for entry in datasets.values():
        source = datasets.get(str(entry.get("files_of"))) if isinstance(entry, dict) else None
        if isinstance(source, dict) and not entry.get("path") and not entry.get("url"):
            entry.update({key: source[key] for key in ("path", "url", "sha256") if source.get(key)})


def load_config(path: Path | str) -> Config:
    """Read and check a YAML config. Raises SuiteError with one sentence."""
    try:
        values = yaml.safe_load(read_bounded(path, LIST).decode("utf-8"))
    except FileNotFoundError:
        raise SuiteError(f"The config {path} does not exist; config/ holds the ones that ship.") from None
    except UNREADABLE as error:
        raise SuiteError(f"The config {path} is not readable YAML: {plain(error)}.") from None
    if not isinstance(values, dict):
        raise SuiteError(f"The config {path} must be a mapping of keys to values.")
    return parse_config(values, str(path))
