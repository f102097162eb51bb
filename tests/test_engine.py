"""The training loop: stages, selection, log, checkpoints, failures, signals."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Silent, small_config
from safetensors.torch import load_file

import cgs.engine.train as engine
from baselines.labelled_only import LabelledOnly
from cgs.discovery import available_methods
from cgs.engine.average import Average
from cgs.engine.losses import ema_decay
from cgs.engine.method import Progress, Stage
from cgs.engine.run import load_checkpoint, save_checkpoint
from cgs.engine.train import Interrupted, explain, train
from cgs.engine.validate import dice_per_target
from cgs.errors import SuiteError
from cgs.paths import Paths
from cgs.plan import Cell


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_writes_everything(run_cell: Callable[..., Path]) -> None:
    folder = run_cell("cgs")
    names = {p.name for p in folder.iterdir()} - {".lock", ".complete.json"}
    assert names == {"weights.safetensors", "weights-last.safetensors", "log.jsonl", "provenance.json"}
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["status"] == "complete" and facts["iterations"] == 12 and facts["seed"] == 0
    assert facts["options"]["tau"] == 0.9 and facts["config"]["training"]["iterations"] == 12
    assert facts["parameters_training"] > facts["parameters_inference"] > 0
    assert facts["versions"]["torch"] == torch.__version__
    log = log_of(folder)
    assert [e["iteration"] for e in log if "loss" in e] == list(range(1, 13))
    assert [e["iteration"] for e in log if "validation" in e] == [6, 12]
    assert set(log[0]["terms"]) == {"supervised", "self", "bidirectional", "consensus"}
    assert log[0]["loss"] == pytest.approx(sum(log[0]["terms"].values()), rel=1e-5)


def test_best_and_last_are_both_kept(run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation falls after iteration 6: best holds the weights of 6, last those of 12."""
    scores = iter([[0.9, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1]])
    monkeypatch.setattr(
        engine.Validation, "__call__", lambda self, method: torch.tensor(next(scores)).numpy()
    )
    folder = run_cell("labelled-only")
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["best_iteration"] == 6 and facts["best_validation_dice"] == pytest.approx(0.9)
    best, last = (load_file(folder / f"weights{s}.safetensors") for s in ("", "-last"))
    assert best.keys() == last.keys() and any(not torch.equal(best[k], last[k]) for k in best)


def test_teacher_is_the_stated_average() -> None:
    student, teacher = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    average = Average(teacher, student, buffers=False)
    average.update(ema_decay(0))
    assert torch.equal(teacher.weight, student.weight)  # Iteration 0 copies the student.
    before = teacher.weight.clone()
    with torch.no_grad():
        student.weight.add_(1.0)
    average.update(ema_decay(4))  # a = 1 - 1/5
    torch.testing.assert_close(teacher.weight, before + 0.2)


def test_teacher_buffers_are_averaged_only_where_asked() -> None:
    for buffers in (False, True):
        student, teacher = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
        student.running_mean.fill_(3.0)
        Average(teacher, student, buffers).update(0)
        assert teacher.running_mean.tolist() == ([3.0, 3.0] if buffers else [0.0, 0.0])


def test_stages(run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second stage starts from the best weights of the first, counts from 0 and selects anew."""
    seen: list[tuple[str, int, int]] = []
    first_weights: dict[str, torch.Tensor] = {}
    scores = iter([0.5, 0.9, 0.2, 0.3, 0.1])

    def loss(self, batch, progress):
        seen.append((progress.stage, progress.iteration, progress.iterations))
        if (progress.stage, progress.iteration) == ("second", 0):
            first_weights.update({k: v.clone() for k, v in self.nets["student"].state_dict().items()})
        return {"supervised": self.nets["student"](batch.labelled.weak).square().mean()}

    monkeypatch.setattr(LabelledOnly, "stages", (Stage("first", 1.5), Stage("second", 1.0, from_best=True)))
    monkeypatch.setattr(LabelledOnly, "loss", loss)
    monkeypatch.setattr(
        engine.Validation, "__call__", lambda self, method: torch.full((4,), next(scores)).numpy()
    )
    kept: dict[str, torch.Tensor] = {}
    copy_of = engine.weights_of

    def keep_best(networks: dict) -> dict[str, torch.Tensor]:
        if not kept and len(seen) == 12:
            kept.update({k: v.clone() for k, v in networks["student"].state_dict().items()})
        return copy_of(networks)

    monkeypatch.setattr(engine, "weights_of", keep_best)
    folder = run_cell("labelled-only")
    assert seen == [("first", t, 18) for t in range(18)] + [("second", t, 12) for t in range(12)]
    assert kept and all(torch.equal(kept[k], first_weights[k]) for k in kept)
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["best_iteration"] == 24 and facts["iterations"] == 30


def test_a_stage_from_best_restores_optimiser_and_teachers(
    run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BCP pre-trains for 4 of 16 iterations; the best state is that of iteration 2, not the last one."""
    scores = iter([0.9, 0.1, *[0.5] * 20])
    monkeypatch.setattr(
        engine.Validation, "__call__", lambda self, method: torch.full((4,), next(scores)).numpy()
    )
    states: dict[int, dict] = {}
    iterate = engine.Trainer.iterate

    def watched(self: engine.Trainer, progress: Progress) -> dict[str, torch.Tensor]:
        momentum = [s["momentum_buffer"].clone() for s in self.optimiser.state.values()]
        nets = {name: copy.deepcopy(net.state_dict()) for name, net in self.method.nets.items()}
        states[self.done] = {"momentum": momentum, **nets}
        return iterate(self, progress)

    monkeypatch.setattr(engine.Trainer, "iterate", watched)
    run_cell("bcp", training={"validate_every": 2, "checkpoint_every": 2})
    best, start = states[2], states[4]
    for key, value in start["student"].items():
        assert torch.equal(value, best["student"][key]) and torch.equal(value, start["teacher"][key])
    assert len(start["momentum"]) == len(best["momentum"]) > 0
    assert all(torch.equal(a, b) for a, b in zip(start["momentum"], best["momentum"], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(start["momentum"], states[3]["momentum"], strict=True))


def test_stages_without_validation_cases(
    run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to select by, a stage goes on from the last state and the last checkpoint is the result."""
    monkeypatch.setattr(engine, "list_cases", lambda *_: [])
    folder = run_cell("bcp")
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["iterations"] == 16 and facts["best_validation_dice"] is None
    assert (folder / "weights.safetensors").read_bytes() == (folder / "weights-last.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_stops_the_run(
    run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        LabelledOnly,
        "loss",
        lambda self, batch, progress: {
            "supervised": self.nets["student"](batch.labelled.weak).mean() * float("nan")
        },
    )
    with pytest.raises(SuiteError, match=r"loss is nan at iteration 1 .*lower training.learning_rate"):
        run_cell("labelled-only")


def test_a_failed_run_is_recorded_and_can_be_repeated(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, cell = small_config(), Cell("phantom", "1", "labelled-only", 0)
    paths = Paths(config.name, results=tmp_path)
    paths.data("phantom").parent.mkdir(parents=True)
    os.symlink(phantom, paths.data("phantom"))
    folder = paths.run("phantom", "1", "labelled-only", 0)

    real = LabelledOnly.loss

    def broken(self, batch, progress):
        if progress.iteration == 2:
            raise RuntimeError("boom")
        return real(self, batch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(LabelledOnly, "loss", broken)
        assert train(config, cell, paths, Silent, keep_failure=True) is False  # type: ignore[arg-type]
    failure = json.loads((folder / "failure.json").read_text())
    assert failure["sentence"] == "RuntimeError: boom" and "Traceback" in failure["traceback"]
    assert failure["iteration"] == 2, "the last one that was done"
    assert json.loads((folder / "provenance.json").read_text())["status"] == "failed"
    assert "boom" in capsys.readouterr().err
    assert train(config, cell, paths, Silent, keep_failure=True) is True  # type: ignore[arg-type]
    assert not (folder / "failure.json").exists()


def test_out_of_memory_gets_advice() -> None:
    sentence, trace = explain(torch.OutOfMemoryError("tried 2 GiB"), small_config().training)
    assert "tried 2 GiB" in sentence and "lower training.gpu_slots" in sentence and trace is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_iteration_saves_and_resumes(
    number: signal.Signals, run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_cell("mean-teacher", "a")
    iterate = engine.Trainer.iterate

    def signalled(self: engine.Trainer, progress: Progress) -> dict[str, torch.Tensor]:
        if self.done == 6:
            os.kill(os.getpid(), number)
        return iterate(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Trainer, "iterate", signalled)
        with pytest.raises(
            Interrupted, match=f"{number.name} at iteration 7; the same command resumes"
        ) as info:
            run_cell("mean-teacher", "b")
    assert info.value.exit_code == 128 + number
    resumed = run_cell("mean-teacher", "b")
    names = ("weights.safetensors", "weights-last.safetensors")
    assert all((whole / n).read_bytes() == (resumed / n).read_bytes() for n in names)


@pytest.mark.parametrize("name", available_methods())
def test_same_seed_same_bits_with_two_threads(name: str, run_cell: Callable[..., Path]) -> None:
    """Sums may be split otherwise than with one thread, but every time in the same way."""
    labelled = "all" if name == "fully-supervised" else "1"
    try:
        first, second = (
            run_cell(name, p, labelled=labelled, training={"threads": 2, "iterations": 4}) for p in ("a", "b")
        )
    finally:
        torch.set_num_threads(1)
    for file in ("weights.safetensors", "weights-last.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_what_is_complete_is_not_trained_again(
    run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clock that jumped, or data prepared anew, makes Snakemake start a job again, without its outputs."""
    folder = run_cell("cps")
    facts = (folder / "provenance.json").read_bytes()
    (folder / "provenance.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(engine.Trainer, "iterate", lambda *_: pytest.fail("it trains"))
        run_cell("cps")
    assert (folder / "provenance.json").read_bytes() == facts
    assert "phantom/1/cps/0: complete already." in capsys.readouterr().err
    run_cell("cps", variants={"cps": {"extends": "cps", "lambda_max": 5.0}})
    assert (folder / "provenance.json").read_bytes() != facts, "other options are another training"


def test_a_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"fingerprint": "mine", "done": 3})
    assert load_checkpoint(path, "mine") == {"fingerprint": "mine", "done": 3}
    assert load_checkpoint(path, "another") is None
    assert load_checkpoint(tmp_path / "absent", "mine") is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_not_used(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"fingerprint": "mine", "nets": {"a": torch.rand(1000)}})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert load_checkpoint(path, "mine") is None


def test_changed_options_start_anew(run_cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint left by other options is ignored: the run equals one in an empty folder."""
    iterate = engine.Trainer.iterate

    def dying(self: engine.Trainer, progress: Progress) -> dict[str, torch.Tensor]:
        if self.done == 9:
            raise KeyboardInterrupt
        return iterate(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Trainer, "iterate", dying)
        with pytest.raises(KeyboardInterrupt):
            run_cell("cps", "a", variants={"cps": {"extends": "cps", "lambda_max": 5.0}})
    changed, clean = run_cell("cps", "a"), run_cell("cps", "b")
    name = "weights-last.safetensors"
    assert (changed / name).read_bytes() == (clean / name).read_bytes()


def test_more_labelled_than_there_are_is_one_sentence(run_cell: Callable[..., Path]) -> None:
    with pytest.raises(SuiteError, match=r"no unlabelled slices are left with 6 labelled patients"):
        run_cell("cgs", labelled="6")


def test_validation_dice_by_hand() -> None:
    reference = torch.tensor([[[0, 1, 1, 2]]]).numpy()
    prediction = torch.tensor([[[0, 1, 2, 2]]]).numpy()
    values = dice_per_target(prediction, reference, 4)
    # Target 1: 2*1/(1+2); target 2: 2*1/(2+1); target 3: empty in both, scored 0.
    assert values.tolist() == pytest.approx([2 / 3, 2 / 3, 0])
