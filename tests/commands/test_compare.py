"""``fewjump compare``: one plan, every student trained and judged alike, and nothing made twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from causal_judges import gpt2_folder
from fewjump import cli, load, save
from fewjump.commands import distill
from fewjump.commands.compare_measure import over_seeds_of
from fewjump.data import Characters, Dataset, Vocabulary
from fewjump.denoiser import NetworkDenoiser
from fewjump.denoiser.wrappers import weights_checksum
from fewjump.evaluate.meter import as_result
from fewjump.evaluate.text import TextMeter
from fewjump.problem import MarkovChain
from fewjump.random import generator_for, integers
from fewjump.report.verdicts import suspects, verdicts
from fewjump.results import Row

STUDENTS = {
    "shared chain": {"student": "shared-chain", "head": ["states=4"]},
    "halved": {"method": "sdtt", "rounds": 2, "jumps-before": 4, "sampler": "first-hitting"},
}

TWO = {"sampler": "scaled", "sampler-options": ["multipliers=[1.0, 0.5]"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "t.txt").write_text("abc cab bac acb " * 60)
    words = ["train", "--data", str(folder / "t.txt"), "--length", "6", "--steps", "4"]
    words += [
        "--hidden",
        "8",
        "--blocks",
        "1",
        "--heads",
        "2",
        "--batch-size",
        "4",
        "--warmup",
        "1",
    ]
    assert cli.main([*words, "--out", str(folder / "teacher"), "--no-progress"]) == cli.OK
    return folder


def larger(folder: Path) -> Path:
    """A teacher that is not smaller than every autoregressive network."""
    place = folder / "larger"
    if not place.exists():
        teacher = load(folder / "teacher")
        config = {**teacher.config(), "trunk": {"hidden": 24, "blocks": 1, "heads": 2}}
        wide = NetworkDenoiser.from_config(config | {"head": {"kind": "product"}})
        save(wide, place, vocabulary=Vocabulary.from_config(teacher.vocabulary_config or {}))
    return place


def plan(folder: Path, **changes: object) -> Path:
    content = {
        "teacher": str(folder / "teacher"),
        "data": str(folder / "t.txt"),
        "steps": [1, 2],
        "teacher-steps": [3],
        "seeds": [0, 1],
        "samples": 30,
        "shared": {"steps": 2, "batch-size": 4, "warmup": 1},
        "students": STUDENTS,
        "samplers": {
            "bounded": {"sampler": "entropy-bounded", "sampler-options": ["gamma=0.2"]},
        },
        **changes,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def compare(path: Path, out: Path) -> int:
    return cli.main(["compare", str(path), "--out", str(out), "--no-progress"])


def test_every_student_and_sampler_is_judged_and_nothing_is_made_twice(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewjump.evaluate.text.LADDER", (0.5, 1.0, 2.0))
    path = plan(made)
    assert compare(path, tmp_path) == cli.OK
    rows = json.loads((tmp_path / "rows.json").read_text())
    seen = {(r["model"], r["seed"], r["steps"]) for r in rows if r["metric"] == "nll"}
    students = {(name, seed, k) for name in STUDENTS for seed in (0, 1) for k in (1, 2)}
    assert seen == students | {(n, seed, 3) for n in ("teacher", "bounded") for seed in (0, 1)}
    (sampler,) = {r["sampler"] for r in rows if r["model"] == "bounded"}
    assert sampler == "entropy-bounded(gamma=0.2)"
    samplers = {r["model"]: r["sampler"] for r in rows}
    assert [samplers[name] for name in STUDENTS] == ["ancestral", "first-hitting"]
    results = json.loads((tmp_path / "results.json").read_text())
    asked = ("halved", 2, "nll")
    (mean,) = (r for r in results["rows"] if (r["model"], r["steps"], r["metric"]) == asked)
    both = [r["value"] for r in rows if (r["model"], r["steps"], r["metric"]) == asked]
    assert len(set(both)) == 2
    assert mean["value"] == pytest.approx(sum(both) / 2)
    costs = {(c["model"], c["seed"]): c["steps"] for c in results["costs"]}
    assert costs == {(name, seed): 2 for name in STUDENTS for seed in (0, 1)}
    asked = {c["model"]: c["teacher_evaluations"] for c in results["costs"]}
    # Two steps of four sequences. A joint student asks once for each, and for one more to be
    # compared with; sdtt asks twice.
    assert asked == {"shared chain": 10, "halved": 16}
    page = (tmp_path / "report.html").read_text()
    assert "Cost of training" in page
    assert "shared chain" in page
    assert "test data" in page
    # Made again from the results, it says the same.
    assert cli.main(["report", str(tmp_path)]) == cli.OK
    again = (tmp_path / "report.html").read_text()
    for words in ("Students of one teacher, compared", "Verdicts", "Cost of training"):
        assert words in page
        assert words in again

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    before = (tmp_path / "students" / "halved" / "1" / "model" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("fewjump.evaluate.quality", never)
        assert compare(path, tmp_path) == cli.OK
    after = (tmp_path / "students" / "halved" / "1" / "model" / "model.safetensors").read_bytes()
    assert before == after
    assert json.loads((tmp_path / "rows.json").read_text()) == rows


def test_results_of_a_comparison_and_of_others_are_not_mixed(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan(made, students={}, seeds=[0], steps=[1])
    assert compare(path, tmp_path / "out") == cli.OK
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    words = ["--data", str(made / "t.txt"), "--steps", "1", "--num-samples", "8", "--no-progress"]
    evaluate = ["evaluate", str(made / "teacher"), *words, "--out"]
    assert cli.main([*evaluate, str(tmp_path / "out")]) == cli.USAGE
    assert "holds a comparison" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    (tmp_path / "begun" / "measured").mkdir(parents=True)
    assert cli.main([*evaluate, str(tmp_path / "begun")]) == cli.USAGE
    assert "holds a comparison" in capsys.readouterr().err
    assert compare(path, made / "teacher") == cli.USAGE
    assert "holds a training run or a model" in capsys.readouterr().err
    assert cli.main([*evaluate, str(tmp_path / "judged")]) == cli.OK
    assert compare(path, tmp_path / "judged") == cli.USAGE
    assert "results that are no comparison's" in capsys.readouterr().err


def test_students_may_be_trained_for_equal_teacher_evaluations(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = {"matched-entropy": False, "teacher-evaluations": 35}
    students = {
        **STUDENTS,
        "experts": {"method": "e-moe", "student": "mixture", "head": ["components=2"], "steps": 3},
        "latent": {"method": "vadd", "student": "latent", "head": ["size=2", "categories=0"]},
    }
    path = plan(made, seeds=[0], samplers=None, students=students, **more)
    assert compare(path, tmp_path) == cli.OK
    costs = json.loads((tmp_path / "results.json").read_text())["costs"]
    found = {c["model"]: (c["steps"], c["teacher_evaluations"]) for c in costs}
    asked = {"shared chain": (7, 35), "halved": (4, 32)}
    assert found == {**asked, "experts": (3, 0), "latent": (2, 0)}
    told = capsys.readouterr().err
    assert told.count("asks nothing of the teacher") == 2
    assert (
        "--method e-moe asks nothing of the teacher, so teacher_evaluations sets no bound" in told
    )
    # The trials that told the steps are not made again.
    with monkeypatch.context() as patch:
        patch.setattr("fewjump.commands.compare_budget.TemporaryDirectory", None)
        assert compare(path, tmp_path) == cli.OK
    again = json.loads((tmp_path / "results.json").read_text())["costs"]
    assert again == costs


#: A student that starts at another.
SHARP = {"student": "shared-chain", "method": "dmmd", "auxiliary-steps": 1, "start": "half"}


def test_a_student_may_start_at_another_and_answers_for_both(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = {**STUDENTS["shared chain"], "teacher-evaluations": 20}
    students = {"half": half, "sharp": SHARP, "sharper": {**SHARP, "start": "sharp", "lr": 2e-3}}
    more = {"matched-entropy": False, "teacher-evaluations": 100, "samplers": None}
    students["sharp"] = {**SHARP, "teacher-evaluations": 60}
    path = plan(made, students=students, **more)
    assert compare(path, tmp_path) == cli.OK
    costs = json.loads((tmp_path / "results.json").read_text())["costs"]
    found = {(c["model"], c["seed"]): (c["steps"], c["teacher_evaluations"]) for c in costs}
    # 5 evaluations a step, and then 16.
    each = {"half": (4, 20), "sharp": (4 + 2, 20 + 32), "sharper": (4 + 2 + 3, 20 + 32 + 48)}
    assert found == {(name, seed): each[name] for name in each for seed in (0, 1)}
    place = tmp_path / "students"
    for seed in ("0", "1"):
        config = yaml.safe_load((place / "sharp" / seed / "config.yaml").read_text())
        assert config["run"]["start"] == weights_checksum(load(place / "half" / seed))
    before = {f: f.read_bytes() for f in place.rglob("*.safetensors")}
    assert compare(path, tmp_path) == cli.OK
    assert {f: f.read_bytes() for f in place.rglob("*.safetensors")} == before
    # What it starts at was removed: the run is known all the same, and is made again from it.
    shutil.rmtree(place / "half")
    assert compare(path, tmp_path) == cli.OK
    assert {f: f.read_bytes() for f in place.rglob("*.safetensors")} == before
    late = {"sharp": {**SHARP, "start": "whole"}, "whole": half}
    assert compare(plan(made, students=late, **more), tmp_path / "b") == cli.USAGE
    assert "sharp starts at whole, which must stand before it" in capsys.readouterr().err
    late = {"half": STUDENTS["shared chain"], "sharp": SHARP}
    assert compare(plan(made, students=late, **more), tmp_path / "b") == cli.USAGE
    assert "100 without the 100 that the student it starts at asks" in capsys.readouterr().err
    late = {"half": {**half, "student": "product", "head": []}, "sharp": SHARP}
    assert compare(plan(made, students=late, **more), tmp_path / "b") == cli.USAGE
    assert "the start is a product student" in capsys.readouterr().err
    late = {"half": half, "sharp": SHARP}
    assert compare(plan(made, students=late, samplers=None), tmp_path / "b") == cli.USAGE
    assert "of one student needs that of the plan" in capsys.readouterr().err
    late = {"half": half, "sharp": {**SHARP, "start": "nowhere"}}
    assert compare(plan(made, students=late, **more), tmp_path / "b") == cli.USAGE
    assert "sharp starts at 'nowhere', which is neither a student" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_learned_sampler_is_a_student(made: Path, tmp_path: Path) -> None:
    """Judged by what it carries where it carries something; its weights are the teacher's."""
    own = {"method": "lsd", "jumps": 2, "path-steps": 5}
    more = {"samplers": None, "matched-entropy": False}
    assert compare(plan(made, students={"LSD": own}, **more), tmp_path) == cli.OK
    rows = json.loads((tmp_path / "rows.json").read_text())
    said = {(r["steps"], r["seed"]): r["sampler"] for r in rows if r["model"] == "LSD"}
    assert said[1, 0] == said[1, 1] == "ancestral"
    assert all(said[2, seed].startswith("scaled(ancestral: ") for seed in (0, 1))
    assert said[2, 0] != said[2, 1]
    results = json.loads((tmp_path / "results.json").read_text())
    asked = [r for r in results["rows"] if (r["model"], r["metric"]) == ("LSD", "nll")]
    assert [r["steps"] for r in asked] == [1, 2]
    # Two steps of four sequences: five of the trajectory, three beside the times.
    costs = {c["teacher_evaluations"] for c in results["costs"]}
    assert costs == {2 * 4 * (5 + 3)}
    measured = list((tmp_path / "measured" / "LSD").iterdir())
    assert len(measured) == 2


@pytest.mark.parametrize("name", ["mdlm", "duo"])
def test_plans_for_published_weights_run(name: str, tmp_path: Path) -> None:
    """The plans of the examples, with tiny checkpoints of the same format and token numbers."""
    path = Path(__file__).parents[2] / "examples" / "plans" / f"{name}-openwebtext.yaml"
    family = {"mdlm": "mdlm_subs", "duo": "duo"}[name]
    published = Path(__file__).parents[1] / "golden" / "originals" / family / "hf"
    np.save(tmp_path / "tokens.npy", integers(50, (60, 32), generator_for(0)).numpy())
    content = yaml.safe_load(path.read_text())
    places = [content["teacher"], content["tokenizer"], *content["models"].values()]
    assert all(place.startswith("hf:") for place in places)
    del content["tokenizer"]
    content |= {
        "teacher": str(published),
        "data": str(tmp_path / "tokens.npy"),
        "length": 32,
        "steps": [1],
        "teacher-steps": [2],
        "samples": 6,
        "matched-entropy": False,
        "models": dict.fromkeys(content["models"], str(published)),
    }
    content["shared"] |= {"steps": 1, "batch-size": 2, "accumulate": 1, "warmup": 1}
    for student in content["students"].values():
        if "rounds" in student:
            student |= {"rounds": 1}
        if "steps" in student:
            student |= {"steps": 1, "batch-size": 2}
        if "head" in student:
            student["head"] = [
                {"states": "states=4", "blocks": "blocks=2", "width": "width=8"}[o.split("=")[0]]
                for o in student["head"]
            ]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    assert compare(tmp_path / "plan.yaml", tmp_path / "out") == cli.OK
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    seen = {(r["model"], r["steps"]) for r in rows if r["metric"] == "copied"}
    samplers = dict.fromkeys(["teacher", *content["samplers"]], 2)
    few = dict.fromkeys([*content["students"], *content["models"]], 1)
    assert seen == {*samplers.items(), *few.items()}
    costs = json.loads((tmp_path / "out" / "results.json").read_text())["costs"]
    assert {c["model"] for c in costs} == set(content["students"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_evaluations": 0}, "teacher_evaluations must be at least 1"),
        ({"teacher": None}, "the plan needs teacher"),
        ({"steps": [1, 1]}, "each once"),
        ({"steps": [0]}, "at least 1"),
        ({"samples": 1}, "plan.yaml: samples must be at least 2"),
        ({"stepz": [1]}, "stepz"),
        ({"studnets": {}}, "did you mean 'students'?"),
        ({"teacher_steps": [4]}, "gives teacher_steps twice"),
        ({"seeds": [-1], "students": {}}, "seeds must lie in [0, 2^63)"),
        ({"students": []}, "students must hold name: value lines"),
        ({"students": {1: {}}}, "1 cannot be a name here"),
        ({"students": {"a": {"sampler": ["psi"]}}}, "a: sampler: must be one of"),
        ({"students": {"a": {"grid": "x"}}}, "a: grid: must be one of"),
        ({"students": {}, "samplers": {}}, "no students:, models:, samplers: or autoregressive:"),
        ({"autoregressive": {"stps": 3}}, "autoregressive: unknown key 'stps'"),
        ({"autoregressive": {"layers": "lstm"}}, "transformer, recurrent"),
        ({"autoregressive": {"seed": 3}}, "seed is for the plan to say"),
        ({"autoregressive": {"device": "cpu"}}, "device is for `fewjump compare --device`"),
        ({"students": {"autoregressive network": {}}}, "cannot be a name"),
        ({"students": {"a/b": {}}}, "cannot be a name"),
        ({"students": {"teacher": {}}}, "cannot be a name"),
        ({"students": {"a": {"heads": ["x=1"]}}}, "there is no option 'heads'; did you mean"),
        ({"students": {"a": {"student": "chian"}}}, "plan.yaml: a: --student takes one of"),
        ({"students": {"a": {"seed": 3}}}, "seed of a is for the plan to say"),
        ({"students": {"a": {"near": 0.5}}}, "near is for joint students"),
        ({"students": {"a": {"start": ["b"]}}}, "a: 'start' takes a path"),
        ({"students": {"a": {"rounds": 2}}}, "rounds is for --method sdtt"),
        ({"students": {"a": {}}, "samplers": {"a": {}}}, "a would share a name"),
        ({"students": {"a": {}, "A": {}}}, "A, a would share a name"),
        ({"models": {"a": {"model": "x"}}}, "models must be lines of name:"),
        ({"models": {"a": "no-such-folder"}}, "no-such-folder"),
        ({"students": {"a": {"tokenizer": "x"}}}, "tokenizer of a is for the plan to say"),
        ({"samplers": {"b": {"sampler": "none"}}}, "none"),
        ({"samplers": {"b": {"top-p": 0.5}}}, "a sampler has sampler"),
        ({"samplers": {"b": {"of": "halvd"}}}, "b is of 'halvd', which is neither the teacher"),
        ({"samplers": {"b": {"of": ["halved"]}}}, "give one of teacher, halved, shared chain"),
        ({"samplers": {"b": {"sampler-options": "gamma=1"}}}, "sampler_options: must be a list"),
        ({"samplers": {"b": {"sampler": "first-hitting", "grid": "cosine"}}}, "b: first-hitting"),
        ({"data": "no-such-file.txt"}, "no-such-file.txt"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_is_trained(
    changes: dict[str, object],
    message: str,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(_: distill.Options) -> int:
        raise AssertionError("trained")

    monkeypatch.setattr(distill, "run", never)
    assert compare(plan(made, **changes), tmp_path / "out") == cli.USAGE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_autoregressive_network_of_the_teachers_size_is_a_row(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"students": {}, "seeds": [0], "matched-entropy": False, "samplers": None}
    own = {"steps": 3, "batch-size": 4, "layers": "recurrent"}
    place = plan(made, **changes, teacher=str(larger(made)), autoregressive=own)
    assert compare(place, tmp_path) == cli.OK
    rows = json.loads((tmp_path / "rows.json").read_text())
    mine = [row for row in rows if row["model"] == "autoregressive network"]
    assert {row["steps"] for row in mine} == {1}
    assert {row["metric"] for row in mine} >= {"nll", "entropy", "bigram_tv"}
    (cost,) = json.loads((tmp_path / "results.json").read_text())["costs"]
    assert (cost["steps"], cost["batch_size"], cost["teacher_evaluations"]) == (3, 4, 0)
    network, teacher = (
        load(folder) for folder in (tmp_path / "autoregressive" / "0", larger(made))
    )
    sizes = [sum(p.numel() for p in model.parameters()) for model in (network, teacher)]
    assert 0.8 * sizes[1] < sizes[0] <= sizes[1]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("fewjump.train.trainer.Trainer._step", never)
    assert compare(place, tmp_path) == cli.OK


def test_a_teacher_smaller_than_any_such_network_is_told_first(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: distill.Options) -> int:
        raise AssertionError("trained")

    monkeypatch.setattr(distill, "run", never)
    monkeypatch.setattr("fewjump.denoiser.network.parameter_counts", lambda _: {"total": 100})
    assert compare(plan(made, autoregressive={}), tmp_path / "out") == cli.USAGE
    assert "autoregressive: an autoregressive network of" in capsys.readouterr().err


def test_a_language_model_judges_every_model(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    judge = gpt2_folder(tmp_path / "judge")
    changes = {"students": {}, "seeds": [0], "steps": [1], "teacher-steps": [2], "samples": 40}
    changes |= {"judge": str(judge), "judge-tokenizer": str(judge / "tokenizer.json")}
    assert compare(plan(made, **changes), tmp_path / "out") == cli.OK
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    for model in ("teacher", "bounded"):
        metrics = {row["metric"] for row in rows if row["model"] == model}
        assert metrics >= {"gen_ppl", "gen_ppl_mean", "mauve", "entropy_within"}
        # What is matched is the language model's number, where the temperature can match it.
        assert not {name for name in metrics if name.startswith("nll_at")}
    results = (tmp_path / "out" / "results.json").read_text()
    assert "tokenised anew" in results
    # No more than this judge can read, whatever others could.
    assert "at most 32 tokens" in results
    # Its numbers are those of one tokenizer.
    other = tmp_path / "other.json"
    other.write_text((judge / "tokenizer.json").read_text())
    compare(plan(made, **{**changes, "judge-tokenizer": str(other)}), tmp_path / "out")
    kept = tmp_path / "out" / "measured" / "teacher"
    assert len(list(kept.iterdir())) == 2
    # And those of one set of weights, wherever they lie.
    weights = judge / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 1.1 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    compare(plan(made, **changes), tmp_path / "out")
    assert len(list(kept.iterdir())) == 3


def test_other_data_of_the_same_name_are_measured_anew(made: Path, tmp_path: Path) -> None:
    def judged() -> float:
        changes = {"matched-entropy": False, "teacher-steps": [1], "students": {}, "seeds": [0]}
        assert compare(plan(made, data=str(tmp_path / "t.txt"), **changes), tmp_path) == cli.OK
        rows = json.loads((tmp_path / "rows.json").read_text())
        return next(row["value"] for row in rows if row["metric"] == "nll")

    text = (made / "t.txt").read_text()
    (tmp_path / "t.txt").write_text(text)
    before = judged()
    (tmp_path / "t.txt").write_text(text.replace("abc", "aab"))
    assert judged() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "redi", "rounds": 1}, "b: redi makes noise and data depend"),
        ({"student": "chain", "head": ["sates=4"]}, "b: options do not fit the chain head"),
        ({"method": "sdtt", "rounds": 3}, "b: 3 rounds need at least 3 steps"),
        ({"guidance": [0, 1]}, "b: guidance is for teachers with classes"),
        ({"student": "any-order", "sampler": "entropy-bounded"}, "b: entropy-bounded ranks"),
        ({"student": "mixture", "sampler": "held-latent"}, "b: held-latent is for latent students"),
        ({"student": "mixture", "grid": "fitted"}, "b: a grid is fitted to what drawing"),
        (TWO, "b: 2 multipliers are for 3 steps"),
    ],
)
def test_a_student_that_its_teacher_cannot_have_is_refused_before_any_is_trained(
    options: dict[str, object],
    message: str,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = plan(made, students={"a": {}, "b": options})
    assert compare(path, tmp_path / "out") == cli.USAGE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sampler_that_its_student_cannot_have_is_refused_before_any_is_trained(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of the teacher, which is judged at three steps, it is right.
    for of, code in (("teacher", cli.OK), ("halved", cli.USAGE)):
        path = plan(made, samplers={"b": {"of": of, **TWO}}, **{"matched-entropy": False})
        assert compare(path, tmp_path / of) == code
    assert "plan.yaml: b: 2 multipliers are for 3 steps" in capsys.readouterr().err
    assert not (tmp_path / "halved").exists()


def test_one_student_is_judged_with_several_samplers(made: Path, tmp_path: Path) -> None:
    students = {"any order": {"student": "any-order", "head": ["width=8"]}}
    ways = {
        "by chance": {"of": "any order", "sampler": "ancestral"},
        "surest": {"of": "any order", "sampler": "confidence"},
        "same": {"of": "any order"},
        "again": {"of": "other", "sampler": "first-hitting"},
        "of teacher": {"of": "teacher", "sampler": "first-hitting"},
    }
    changes = {"students": students, "samplers": ways, "models": {"other": str(made / "teacher")}}
    path = plan(made, **changes, **{"matched-entropy": False})
    assert compare(path, tmp_path) == cli.OK
    rows = json.loads((tmp_path / "rows.json").read_text())
    nll = {(r["model"], r["seed"], r["steps"]): r for r in rows if r["metric"] == "nll"}
    for name, label in (
        ("any order", "ancestral(block=1)"),
        ("by chance", "ancestral"),
        ("surest", "confidence"),
        ("same", "ancestral(block=1)"),
        ("again", "first-hitting"),
    ):
        cells = [nll[name, seed, steps] for seed in (0, 1) for steps in (1, 2)]
        assert {row["sampler"] for row in cells} == {label}
    assert nll["of teacher", 1, 3]["sampler"] == "first-hitting"
    # One student each seed, and its samples are those of its default.
    for seed in (0, 1):
        assert nll["same", seed, 2]["value"] == nll["any order", seed, 2]["value"]
        assert nll["by chance", seed, 2]["value"] != nll["any order", seed, 2]["value"]
    assert len({nll["same", seed, 2]["value"] for seed in (0, 1)}) == 2
    assert {p.name for p in (tmp_path / "students").iterdir()} == {"any order"}
    costs = json.loads((tmp_path / "results.json").read_text())["costs"]
    assert [(c["model"], c["seed"]) for c in costs] == [("any order", 0), ("any order", 1)]


def test_a_changed_student_is_refused_before_another_is_trained(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"seeds": [0], "matched-entropy": False, "samplers": None, "steps": [1]}
    students = {"plain": {}, "halved": STUDENTS["halved"]}
    assert compare(plan(made, students=students, **changes), tmp_path) == cli.OK
    for name, message in (
        ("plain", "students/plain/0 holds a run with another configuration (train.lr"),
        ("halved", "students/halved/0/rounds/1 holds a run with another configuration (train.lr"),
    ):
        more = {"new": {}, **students, name: {**students[name], "lr": 0.5}}
        assert compare(plan(made, students=more, **changes), tmp_path) == cli.USAGE
        assert message in capsys.readouterr().err
        assert not (tmp_path / "students" / "new").exists()
    longer = {"shared": {"steps": 4, "batch-size": 4, "warmup": 1}}
    more = {"new": {}, **students}
    assert compare(plan(made, students=more, **changes, **longer), tmp_path) == cli.USAGE
    assert "cannot be made longer or shorter" in capsys.readouterr().err
    assert not (tmp_path / "students" / "new").exists()
    shorter = {"shared": {"steps": 1, "batch-size": 4, "warmup": 1}}
    more = {"new": {}, "plain": {}}
    assert compare(plan(made, students=more, **changes, **shorter), tmp_path) == cli.USAGE
    assert "plain/0 has done 2 steps, more than the 1 asked for" in capsys.readouterr().err
    assert not (tmp_path / "students" / "new").exists()


def test_a_changed_autoregressive_network_is_refused_before_a_student_is_trained(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"seeds": [0], "matched-entropy": False, "samplers": None, "steps": [1]}
    changes |= {"teacher": str(larger(made)), "teacher-steps": [1]}
    alone = {"steps": 2, "batch-size": 4, "warmup": 1}
    path = plan(made, students={}, **changes, autoregressive=alone)
    assert compare(path, tmp_path) == cli.OK
    other = {**alone, "batch-size": 8}
    path = plan(made, students={"new": {}}, **changes, autoregressive=other)
    assert compare(path, tmp_path) == cli.USAGE
    said = capsys.readouterr().err
    assert "autoregressive: " in said
    assert "0 holds a run with another configuration (train.batch_size: 4 → 8)" in said
    assert not (tmp_path / "students").exists()


def test_steps_that_the_budget_allows_are_checked_before_a_student_is_trained(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students = {"first": {}, "second": {"method": "idlm", "auxiliary-steps": 20}}
    path = plan(made, students=students, **{"teacher-evaluations": 80})
    for _ in range(2):
        # The second time, what a step asks is known from the first.
        assert compare(path, tmp_path / "out") == cli.USAGE
        said = capsys.readouterr().err
        assert "second: auxiliary_steps (20) leaves the student none" in said
        assert not (tmp_path / "out" / "students").exists()


V, L, N = 27, 16, 400


def sharpened(chain: MarkovChain, power: float) -> MarkovChain:
    weights = chain.transition**power
    return MarkovChain(chain.initial, weights / weights.sum(-1, keepdim=True), chain.length)


def generators(chain: MarkovChain, train: torch.Tensor) -> dict[str, torch.Tensor]:
    """An honest generator, and those that a judge likes better than real data."""
    likely = sharpened(chain, 3.0).sample(N, generator_for(3))
    mode = likely[chain.log_prob(likely).argmax()]
    pairs = (train[:, :1], train[:, 1:2])
    return {
        "honest": chain.sample(N, generator_for(2)),
        "periodic": torch.cat([torch.cat(pairs, 1)] * (L // 2), 1)[:N],
        "copies": train[:N],
        "copies of halves": torch.cat([train[:N, 5:], chain.sample(N, generator_for(4))[:, :5]], 1),
        "one mode": mode.expand(N, L),
        "likely": likely,
    }


@pytest.mark.parametrize(
    "name", ["honest", "periodic", "copies", "copies of halves", "one mode", "likely"]
)
def test_degenerate_generators_are_caught(name: str) -> None:
    chain = MarkovChain.random(V, L, generator=generator_for(1))
    tokens = chain.sample(2500, generator_for(0))
    vocabulary = Characters("abcdefghijklmnopqrstuvwxyz ")
    meter = TextMeter(Dataset(tokens[:2000], tokens[2000:2100], tokens[2100:], vocabulary, "toy"))
    samples = generators(chain, tokens[:2000])[name]
    found = meter.measure(samples)
    rows = [as_result(value, metric, name, "", 1, 1.0) for metric, value in found.items()]
    table = suspects([*rows, *meter.reference()])
    caught = {line[2] for part in table for line in part.rows}
    expected = {
        "honest": set(),
        "periodic": {"repeated_4"},
        "copies": {"copied"},
        "copies of halves": {"copied"},
        "one mode": {"entropy", "distinct_4", "nll"},
        "likely": {"entropy", "distinct_4", "nll"},
    }[name]
    assert caught >= expected
    assert caught or name == "honest"
    assert not (caught and name == "honest")


def row(model: str, nfe: float, value: float, half: float, metric: str = "bigram_tv") -> Row:
    return Row(model, "ancestral", int(nfe), nfe, metric, value, value - half, value + half, 1.0)


def test_a_verdict_is_given_only_where_intervals_separate() -> None:
    rows = [
        row("teacher", 1, 0.9, 0.01),
        row("teacher", 64, 0.3, 0.05),
        row("good", 1, 0.1, 0.05),
        row("close", 1, 0.28, 0.05),
        row("bad", 1, 0.5, 0.05),
        row("good", 1, 0.9, 0.01, "entropy"),
    ]
    rows.append(row("teacher", 64, 0.5, 0.01, "recall"))
    rows.append(row("varied", 1, 0.8, 0.01, "recall"))
    (table,) = verdicts(rows, "teacher")
    assert [(line[0], line[2], line[-1]) for line in table.rows] == [
        ("good", "bigram_tv", "better"),
        ("close", "bigram_tv", "intervals overlap"),
        ("bad", "bigram_tv", "worse"),
        ("varied", "recall", "better"),
    ]


def test_the_mean_over_seeds_has_the_wider_interval() -> None:
    def one(seed: int, value: float) -> dict[str, object]:
        about: dict[str, object] = {
            "model": "a",
            "sampler": "x",
            "steps": 1,
            "metric": "nll",
            "nfe": 1,
            "seconds": 2.0,
        }
        return {**about, "seed": seed, "value": value, "low": value - 0.1, "high": value + 0.1}

    (near,) = over_seeds_of([one(0, 1.0), one(1, 1.0)])
    assert near.low == pytest.approx(1 - 0.1 / 2**0.5)
    (far,) = over_seeds_of([one(0, 1.0), one(1, 2.0)])
    assert far.value == pytest.approx(1.5)
    # Student's t with one degree of freedom: 12.706 standard errors of 0.5.
    assert far.high is not None
    assert far.high - far.value == pytest.approx(12.706 * 0.5, rel=1e-3)


def test_what_one_seed_lacks_has_no_mean() -> None:
    """The divergence of one is infinite: that of the other alone would be too good."""
    about = {"model": "a", "sampler": "x", "steps": 1, "nfe": 1}
    found = [
        {**about, "seed": 0, "metric": "kl", "value": 0.1},
        {**about, "seed": 0, "metric": "missed", "value": 0.0},
        {**about, "seed": 1, "metric": "missed", "value": 0.2},
    ]
    (row,) = over_seeds_of(found)
    assert (row.metric, row.value) == ("missed", pytest.approx(0.1))
