"""What the pages say in words is what the committed results say in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from experiments.harness import ROOT
from experiments.methods import SAMPLERS
from experiments.pages import supports
from experiments.pages.checkpoints import FAMILIES
from experiments.pages.markdown import where
from experiments.pages.road import load
from fewjump.evaluate.bootstrap import half_width
from fewjump.evaluate.meter import mean_over_seeds
from fewjump.results import as_row

Places = dict[str, set[tuple[str, str, int]]]


def told_apart(part: str) -> tuple[Places, Places]:
    """By choice: problem, measure and steps of what is better than uniform times, and worse."""
    out: tuple[Places, Places] = ({}, {})
    for row in load("adaptive_networks")[f"{part}_against_uniform"]:
        for found, word in zip(out, ("better", "worse")):
            places = found.setdefault(row["choice"], set())
            if row[word]:
                places.add((row["problem"], row["process"], row["steps"]))
    return out


def test_the_verdict_on_grids() -> None:
    better, worse = told_apart("grids")
    assert ("names, uniform", "matched_nll", 2) in better["fitted"]
    assert {("digits, masked", m, 2) for m in ("frechet", "1 − recall")} <= better["fitted"]
    assert all(steps == 2 for _, _, steps in better["fitted"])
    assert {problem for problem, _, _ in better["fitted"]} == {"names, uniform", "digits, masked"}
    assert not worse["fitted"]
    assert {(problem, steps) for problem, _, steps in better["cosine"]} == {("digits, masked", 2)}
    assert len(better["log-linear"]) == 1
    measures = ("bound", "matched_nll", "trigram_tv")
    on_text = {("text, masked", m, k) for m in measures for k in (4, 8)}
    assert on_text <= worse["log-linear"]


def test_the_verdict_on_training_times() -> None:
    better, worse = told_apart("training")
    for choice in ("importance", "importance pairs", "learned weight", "gap doubling"):
        assert not better[choice]
    assert not worse["gap halving"]
    won = {("names, warm", "bound", 8)}
    won |= {(f"{corpus}, warm", "bound", k) for corpus in ("text", "digits") for k in (4, 8)}
    assert won <= better["gap halving"]


def test_the_verdict_on_joint_students() -> None:
    better, worse = told_apart("joint")
    assert not better["importance"] | worse["importance"] | better["learned weight"]
    at_one = {("names, joint", m, 1) for m in ("bound", "matched_nll", "trigram_tv")}
    assert at_one <= worse["learned weight"]


def test_the_fit_on_text_moves_times_by_one_candidate() -> None:
    key = ("text, masked", "fitted", "bound")
    rows = load("adaptive_networks")["grids"]
    fits = [r["times"] for r in rows if (r["problem"], r["student"], r["process"]) == key]
    assert len(fits) == 9
    for times in fits:
        steps = len(times) - 1
        assert all(abs(t - (1 - k / steps)) <= 1 / 32 for k, t in enumerate(times))


def test_every_student_is_worse_than_its_teacher_in_the_bound() -> None:
    networks = load("adaptive_networks")

    def mean(part: str, problem: str, student: str, steps: int) -> float:
        key = (problem, "bound", student, steps)
        rows = networks[part]
        mine = [r for r in rows if (r["problem"], r["process"], r["student"], r["steps"]) == key]
        assert len(mine) == 3
        return sum(r["loss"] for r in mine) / 3

    for corpus in ("names", "text", "digits"):
        for steps in (4, 8):
            teacher = mean("grids", f"{corpus}, masked", "uniform", steps)
            for way in {r["student"] for r in networks["training"]}:
                assert mean("training", f"{corpus}, warm", way, steps) > teacher


def test_a_check_that_does_not_hold_says_so() -> None:
    """Times of sparse rates' recovery grow faster than V once vectors leave the caches."""
    results = ROOT / "benchmarks" / "results" / "checks"
    failing = {p.stem for p in results.glob("*.json") if load(f"checks/{p.stem}")["failures"]}
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")
    saying = {s.split("made: checks/")[1].split()[0] for s in sections if "Does not hold" in s}
    assert failing == saying == {"vocabulary"}


def test_generators_commute_and_do_not_as_is_said() -> None:
    rows = load("checks/commutation")["tables"][0]["rows"]
    assert {r[0] for r in rows if r[1] == "no"} == {"GIDD hybrid", "mask to uniform"}


def test_the_chunked_loss_is_as_small_fast_and_exact_as_it_must_be() -> None:
    content = load("scale/loss_memory")
    assert (content["hidden"], content["positions"]) == (768, 4096)
    rows = [r for r in content["rows"] if r["vocab"] == 50_258 and r["how"] == "chunked"]
    assert {r["labels"] for r in rows} == {"soft", "hard"}
    for row in rows:
        assert row["memory_ratio"] <= 1 / 8
        assert row["time_ratio"] <= 2.5
        assert row["value_error"] <= 1e-5
        assert row["gradient_error"] <= 1e-5


def test_two_processes_agree_with_one() -> None:
    content = load("scale/two_ranks")
    curve = content["one_process_curve"]
    assert max(curve) - min(curve) > 0.01
    assert all(row["largest_loss_difference"] <= 1e-5 for row in content["rows"])


def test_the_small_shape_fits() -> None:
    content = load("scale/small_step")
    assert content["trunk"]["hidden"] * content["trunk"]["blocks"] == 768 * 12
    for row in content["rows"]:
        assert row["parameters"] > 160e6
        assert row["peak_bytes"] < 12 * 2**30


def test_originals_of_every_family_are_within_what_is_allowed() -> None:
    content: dict[str, Any] = load("checkpoints/originals")
    assert {row["family"] for row in content["rows"]} == set(FAMILIES)
    assert content["atol"] == 5e-6
    assert all(row["excess"] <= 1 for row in content["rows"])


def test_at_least_a_thousand_files_were_loaded_and_none_is_a_defect() -> None:
    content = load("checkpoints/fuzz")
    assert content["files"] >= 1000
    assert content["defects"] == []
    assert len(content["containers"]) >= 7


def test_fillings_in_one_evaluation() -> None:
    """Every student at one step and the teacher at 64, seed by seed; speeds are the first's."""
    content = load("conditioning_names")
    seeds, speeds = range(content["sizes"]["seeds"]), []
    for hidden in ("stretch", "scattered"):
        for seed in seeds:
            rows = [r for r in content["fillings"] if (r["hidden"], r["seed"]) == (hidden, seed)]
            teacher = [r for r in rows if r["student"] == "teacher"]
            (slow,) = (r for r in teacher if r.get("steps") == 64)
            (bound,) = (r for r in teacher if "one_by_one" in r)
            ones = [r for r in rows if r.get("steps") == 1 and r["student"] != "teacher"]
            assert len(ones) == 4
            for r in ones:
                assert r["nll"] < slow["nll"]
                assert r["matched_nll"] < slow["matched_nll"]
            truth = [r for r in rows if "steps" not in r and r["student"] != "teacher"]
            assert all(r["nll"] < bound["one_by_one"] for r in truth)
            if not seed:
                speeds += [slow["seconds_alone"] / r["seconds_alone"] for r in ones]
        by_judge = over_seeds(
            [r for r in content["fillings"] if (r["hidden"], r.get("steps")) == (hidden, 1)],
            ("student",),
            "matched_nll",
        )
        if hidden == "scattered":
            assert min(by_judge, key=lambda key: by_judge[key]) == ("shared-chain",)
        else:
            alike = [by_judge[key] for key in by_judge if key != ("teacher",)]
            assert max(alike) - min(alike) < 0.015
    assert 10 < min(speeds) < max(speeds) < 62


def test_lower_halves_of_digits_in_one_evaluation() -> None:
    rows = load("digits_infilling")["fillings"]
    drawn = {(r["student"], r["steps"]): r for r in rows if "steps" in r}
    here = [r for r in rows if r["hidden"] == "lower half" and "steps" not in r]
    truth = {r["student"]: r for r in here}
    slow, mixture = drawn["teacher", 64], drawn["joint student", 1]
    assert mixture["frechet_high"] < slow["frechet_low"]
    assert mixture["precision_low"] > slow["precision_high"]
    assert abs(mixture["recall"] - slow["recall"]) < 0.005
    assert round(slow["seconds_alone"] / mixture["seconds_alone"]) == 13
    order = sorted(truth, key=lambda name: truth[name]["nll"])
    assert order == ["any-order", "shared-chain", "joint student", "teacher"]
    assert truth["teacher"]["one_by_one_high"] < truth["any-order"]["nll_low"]
    assert truth["any-order"]["nll_high"] < truth["teacher"]["nll_low"]
    some, chain = drawn["any-order", 1], drawn["shared-chain", 1]
    for key in ("frechet", "precision"):
        assert some[f"{key}_low"] < slow[f"{key}_high"]
        assert slow[f"{key}_low"] < some[f"{key}_high"]
    assert some["recall_high"] < slow["recall_low"]
    assert chain["frechet_low"] > slow["frechet_high"]
    assert chain["precision_high"] < slow["precision_low"]


def test_molecules_as_selfies() -> None:
    """FCD of one set of 10,000 samples each; twice as near is no matter of draws."""
    content = load("molecules_selfies_30")
    assert {row["n"] for row in content["rows"] if "moses" in row} == {10_000}
    assert all(row["valid"] > 0.998 for row in content["rows"])
    fcd = {(r["student"], r["steps"]): r["moses"]["FCD/Test"] for r in content["rows"]}
    slow = fcd["teacher, one by one", 32]
    assert slow < fcd["teacher", 32]
    assert 1.9 < slow / fcd["any-order", 1] < 2.1
    assert fcd["any-order", 1] == pytest.approx(fcd["autoregressive network", 1], rel=0.05)
    assert fcd["shared-chain", 4] < slow
    assert fcd["any-order", 4] > 1.2 * fcd["any-order", 1]
    smiles = load("molecules_smiles_30")
    (valid,) = (r for r in smiles["rows"] if (r["student"], r["steps"]) == ("any-order", 1))
    assert valid["moses"]["FCD/Test"] < 0.5 * fcd["any-order", 1]
    assert smiles["teacher_steps"] == 3 * content["teacher_steps"]
    assert "neighbours" not in content["sizes"]["heads_of"]["any-order"]


def test_a_second_block_on_shakespeare() -> None:
    """The paired differences of three seeds separate, and every seed agrees with their mean."""
    content = load("conditioning_text")
    deeper = "any-order with two blocks"
    gaps, exact = [], []
    for seed in (0, 1, 2):
        rows = {(r["student"], r["steps"]): r for r in content["rows"] if r["seed"] == seed}
        mine, theirs = rows[deeper, 1], rows["autoregressive", 1]
        gaps.append(theirs["matched_nll"] - mine["matched_nll"])
        assert mine["nll"] < theirs["nll"]
        assert mine["matched_nll_high"] > theirs["matched_nll_low"]
        for steps in (2, 4, 8, 16):
            left = rows[f"{deeper}, from the left", steps]
            assert left["matched_nll_low"] < mine["matched_nll_high"]
            assert left["matched_nll"] < theirs["matched_nll"]
        assert mine["training_seconds"] > theirs["training_seconds"]
        truth = [r for r in content["fillings"] if r["seed"] == seed and "steps" not in r]
        told = {(r["hidden"], r["student"]): r["nll"] for r in truth}
        exact += [told[h, deeper] - told[h, "autoregressive"] for h in ("stretch", "scattered")]
    assert min(gaps) > 0
    assert sum(gaps) / 3 > half_width(gaps)
    assert min(exact) > 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_students_that_condition_on_shakespeare(seed: int) -> None:
    """Three seeds: a claim is one where intervals separate in each."""
    content = load("conditioning_text")
    assert {r["seed"] for r in content["rows"]} == {0, 1, 2}
    rows = {(r["student"], r["steps"]): r for r in content["rows"] if r["seed"] == seed}
    ends = [(rows["shared-chain", k], rows["shared-chain", 2 * k]) for k in (1, 2, 4, 8)]
    assert all(later["matched_nll"] < now["matched_nll"] for now, later in ends)
    best, first = rows["shared-chain", 16], rows["shared-chain", 1]
    assert best["matched_nll_high"] < first["matched_nll_low"]
    assert best["matched_nll_high"] < rows["teacher", 64]["matched_nll_low"]
    deeper = "any-order with two blocks"
    walks = ("autoregressive", "autoregressive with lookahead", "any-order", deeper)
    for kind in walks:
        assert rows[kind, 16]["matched_nll_low"] > rows[kind, 1]["matched_nll_high"]
    for kind in ("autoregressive", "any-order"):
        one = rows[kind, 1]
        left = [rows[f"{kind}, from the left", k] for k in (2, 4, 8, 16)]
        assert all(row["matched_nll_low"] < one["matched_nll_high"] for row in left)
    first, second = rows["autoregressive", 1], rows["any-order", 1]
    assert first["matched_nll_high"] > second["matched_nll_low"]
    for hidden in ("stretch", "scattered"):
        here = [r for r in content["fillings"] if r["seed"] == seed]
        mine = [r for r in here if r["hidden"] == hidden]
        drawn = {(r["student"], r["steps"]): r for r in mine if "steps" in r}
        truth = {r["student"]: r for r in mine if "steps" not in r}
        slow, bound = drawn["teacher", 64], truth["teacher"]["one_by_one"]
        assert truth["shared-chain"]["nll_high"] < truth["teacher"]["one_by_one_low"]
        if hidden == "stretch":
            assert all(
                drawn[kind, 1]["nll_high"] < slow["nll_low"] for kind in (*walks, "shared-chain")
            )
            assert all(
                truth[kind]["nll_high"] < truth["teacher"]["one_by_one_low"] for kind in walks
            )
        else:
            mine, half = (
                truth["any-order"],
                truth["any-order"]["nll_high"] - truth["any-order"]["nll"],
            )
            assert abs(mine["nll"] - bound) < half
            assert drawn["shared-chain", 1]["matched_nll_high"] < slow["matched_nll_low"]
            now = drawn["any-order", 1]
            assert now["matched_nll_low"] < slow["matched_nll_high"]
            assert slow["matched_nll_low"] < now["matched_nll_high"]
            assert all(
                truth["shared-chain"]["nll"] < r["nll"]
                for kind, r in truth.items()
                if kind not in ("shared-chain", "teacher")
            )


def test_more_steps_of_students_that_condition() -> None:
    found = over_seeds(load("conditioning_names")["rows"], ("student", "steps"), "matched_nll")
    walks = ("autoregressive", "autoregressive with lookahead", "any-order")
    assert all(found[kind, 16] - found[kind, 1] > 0.04 for kind in walks)
    assert found["shared-chain", 16] < found["shared-chain", 1] + 0.005
    for kind in ("autoregressive", "any-order"):
        left = [found[f"{kind}, from the left", k] for k in (2, 4, 8, 16)]
        assert max(left) < found[kind, 1] + 0.02
    assert abs(found["autoregressive", 1] - found["any-order", 1]) < 0.02


def test_what_the_teacher_adds() -> None:
    def value(
        corpus: str, source: str, share: float, key: str = "nll", stopped: str = "last"
    ) -> float:
        asked = (source, share, stopped)
        rows = load(f"teacher_adds_{corpus}")["rows"]
        here = [r[key] for r in rows if (r["source"], r["share"], r["stopped"]) == asked]
        return sum(here) / len(here)

    both, data, samples = "teacher and data", "data alone", "teacher alone"
    warm = "data, from the teacher's weights"

    def gains(corpus: str, share: float) -> list[float]:
        """By seed, how much the teacher is worth beside the data in one evaluation."""
        rows = where(load(f"teacher_adds_{corpus}")["rows"], share=share, stopped="last")
        assert {r["seed"] for r in rows} == {0, 1, 2}
        told = {(r["source"], r["seed"]): r["nll"] for r in rows}
        return [told[data, seed] - told[both, seed] for seed in range(3)]

    assert all(0 < gain < 0.02 for gain in gains("digits", 1.0))
    assert round(sum(gains("digits", 0.01)) / 3, 1) == 1.8
    assert abs(value("digits", samples, 0.01) - value("digits", both, 0.01)) < 0.05
    digits = value("digits", data, 1.0, "bound") - value("digits", both, 1.0, "bound")
    assert round(digits, 2) == 0.08
    for corpus, (low, high) in (("names", (-0.005, 0.005)), ("text", (0.009, 0.032))):
        for share in (1.0, 0.1):
            assert all(low < gain < high for gain in gains(corpus, share))
            for source in (both, warm):
                gain = value(corpus, data, share, "bound") - value(corpus, source, share, "bound")
                assert 0.008 < gain < 0.04
    few = ("names", data, 0.01)
    assert round(value(*few, "seen_nll"), 2) == 0.76
    assert round(value(*few), 2) == 1.22
    assert value(*few) - value("names", both, 0.01) > 0.05
    early = {s: value("names", s, 0.01, stopped="validation") for s in (data, both)}
    assert abs(early[both] - early[data]) < 0.01
    bounds = [value("names", s, 0.01, "bound", "validation") for s in (data, both)]
    assert bounds[0] - bounds[1] > 0.02
    assert 0.005 < value("names", samples, 0.1) - value("names", data, 0.1) < 0.015
    assert min(early.values()) - value("names", samples, 0.1) > 0.07
    for stopped in ("last", "validation"):
        alone, asked = (value("names", s, 0.01, stopped=stopped) for s in (samples, both))
        assert alone > asked
    assert round(value("text", samples, 0.1) - value("text", data, 0.1), 2) == 0.12
    assert round(value("text", data, 0.01) - value("text", both, 0.01), 2) == 0.06
    assert value("text", both, 0.01) < value("text", samples, 0.1)
    assert round(value("digits", samples, 1.0) - value("digits", data, 1.0), 1) == 0.2


def test_sums_pay_where_the_teacher_is_asked_far_from_the_data() -> None:
    rows = load("summed_targets")["rows"]
    for drawn, summed in zip(rows[::2], rows[1::2], strict=True):
        assert summed["draw_variance"] < 0.5 * drawn["draw_variance"]
        saved = 1 - summed["variance"] / drawn["variance"]
        dearer = summed["cpu_seconds"] / drawn["cpu_seconds"] - 1
        if drawn["student"] == "shared-chain":
            assert (saved > dearer) == (drawn["near"] > 0.1)
        else:
            assert saved > dearer


def over_seeds(
    rows: list[dict[str, Any]], about: tuple[str, ...], key: str
) -> dict[tuple[Any, ...], float]:
    """Means of a number over the rows that are alike in ``about``."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in about), []).append(row[key])
    return {name: sum(values) / len(values) for name, values in groups.items()}


def test_the_verdict_on_boards() -> None:
    rows = load("finite_supports")["boards"]
    assert {r["seed"] for r in rows} == {0, 1, 2}
    found = over_seeds(rows, ("student", "steps", "clues"), "solved")
    teacher = "exact product teacher"
    for kind in ("shared-mixture", "any-order", "autoregressive"):
        assert found[kind, 1, 0] > found[teacher, 16, 0]
    assert found["shared-chain", 4, 0] < found[teacher, 16, 0]
    assert found["shared-mixture", 1, 0] < found["shared-mixture", 4, 0]
    for kind in ("any-order", "autoregressive"):
        assert found[kind, 1, 0] > found[kind, 2, 0] > found[kind, 4, 0]
        for steps in (2, 4):
            left = found[f"{kind}, from the left", steps, 0]
            assert abs(left - found[kind, 1, 0]) < 0.01
    for clues in (0, 2, 4, 6, 8):
        assert found["shared-mixture", 1, clues] > found[teacher, 1, clues]
    assert found["shared-mixture", 4, 2] > found[teacher, 16, 2] + 0.05
    kinds = {r["student"] for r in rows} - {teacher}
    best = {clues: max(found[k, 4, clues] for k in kinds) for clues in (4, 6, 8)}
    # As good: the mixture's interval over seeds, 0.02 to each side, holds the teacher's value.
    assert abs(found[teacher, 16, 4] - best[4]) < 0.02
    assert all(found[teacher, 16, clues] > best[clues] for clues in (6, 8))


def test_what_the_rule_alone_does_to_boards() -> None:
    rows = load("rule_refinement")["rows"]
    assert {r["seed"] for r in rows} == {0, 1, 2}
    about = ("student", "refined", "anchor", "clues")
    ones = [r for r in rows if r["steps"] == 1]
    valid = over_seeds(ones, about, "solved")
    far, apart = (over_seeds([r for r in ones if not r["clues"]], about, k) for k in ("tv", "kl"))
    before, whole, puzzles = (None, None), "whole boards", ("puzzles", 0.05)

    def change(kind: str, how: tuple[str | None, float | None], clues: int = 0) -> float:
        return valid[kind, *how, clues] - valid[kind, *before, clues]

    assert valid["shared-mixture", whole, 0.05, 0] > 0.98
    assert abs(far["shared-mixture", whole, 0.05, 0] - far["shared-mixture", *before, 0]) < 0.05
    assert apart["shared-mixture", whole, 0.05, 0] > 2 * apart["shared-mixture", *before, 0]
    for kind in ("any-order", "autoregressive"):
        assert valid[kind, whole, 0.05, 0] > 0.98
        assert far[kind, whole, 0.05, 0] > far[kind, *before, 0] + 0.3
        assert change(kind, (whole, 0.5)) > 0.08
        assert apart[kind, whole, 0.5, 0] < apart[kind, *before, 0] + 0.02
        for clues in (2, 4, 6, 8):
            assert change(kind, (whole, 0.05), clues) < 0 < change(kind, puzzles, clues)
    assert change("product", (whole, 0.05)) == change("product", (whole, 0.5)) == 0.0
    assert valid["product", *before, 0] < 1e-3


def test_the_verdict_on_points() -> None:
    rows = load("finite_supports")["points"]
    for name, methods in supports.PUBLISHED.items():
        here = [r for r in rows if r["problem"] == name and "steps" in r]
        valid = over_seeds(here, ("student", "steps"), "valid")
        published = max(values[2] for values in methods.values()) / 100
        for kind in ("shared-mixture", "shared-chain"):
            assert valid[kind, 1] > published
        for kind in ("any-order", "autoregressive"):
            assert valid[kind, 4] < valid[kind, 1]


def test_the_verdict_on_letters() -> None:
    rows = [r for r in load("oracle_markov")["rows"] if "steps" in r]
    about = ("student", "length", "steps")
    rate, apart = (over_seeds(rows, about, key) for key in ("kl_rate", "unigram_l1"))
    teacher = "exact product teacher"
    for length in (128, 1024):
        assert rate["shared-chain", length, 1] < 0.5 * rate[teacher, length, 8]
        for kind in ("product", "shared-chain", "any-order", "autoregressive"):
            assert apart[kind, length, 1] > apart[teacher, length, 1]
    for kind in ("any-order", "autoregressive"):
        drift = [rate[kind, 128, k] for k in (1, 2, 4, 8)]
        assert drift == sorted(drift)
        assert drift[0] < rate[teacher, 128, 4]


def test_antibodies_of_one_evaluation() -> None:
    """Validity that cannot be told from the teacher's 64, more variety, and less identity."""
    content = load("antibodies")
    rows = {(r["student"], r["steps"]): r for r in content["rows"]}
    first, last = rows["teacher", 1], rows["teacher", 64]
    for student in ("shared-chain", "any-order"):
        mine = rows[student, 1]
        for key in ("valid", "identity"):
            assert first[f"{key}_high"] < mine[f"{key}_low"]
        assert mine["valid_low"] < last["valid_high"]
        assert mine["valid_high"] > last["valid_low"]
        assert mine["between_low"] > last["between_high"]
        for key in ("letters_tv", "pairs_tv"):
            assert mine[key] < content["reference"][key]
    students = [r for name, r in rows.items() if name[0] != "teacher" and name[1] == 1]
    assert all(r["copies"] == 0 for r in students)
    best = max(students, key=lambda r: r["identity"])
    assert best["student"] == "autoregressive"
    assert best["identity_high"] < last["identity_low"]
    for student in ("shared-chain", "any-order", "autoregressive"):
        for steps in (2, 4, 8):
            assert rows[student, steps]["valid_low"] < rows[student, 1]["valid_high"]
    for student, unseen in content["held_out_nll"].items():
        if student in ("shared-chain", "any-order", "autoregressive"):
            assert content["learned_nll"][student] < unseen
    alone = {(r["student"], r["steps"]): r["seconds"] for r in content["alone"]}
    assert all(alone["teacher", 64] / alone[one, 1] > 35 for one in ("shared-chain", "any-order"))


def test_antibodies_at_temperatures() -> None:
    content = load("antibodies")
    (plain,) = (r for r in content["rows"] if (r["student"], r["steps"]) == ("teacher", 64))
    cold = {(r["student"], r["temperature"]): r for r in content["sharpened"]}
    left = cold["autoregressive", 0.9]
    for key in ("valid", "identity"):
        assert left[f"{key}_high"] > plain[f"{key}_low"]
        assert left[f"{key}_low"] < plain[f"{key}_high"]
        assert cold["any-order", 0.8][f"{key}_low"] > plain[f"{key}_high"]
    assert left["between_high"] < plain["between_low"]
    assert cold["any-order", 0.8]["between"] < left["between"]
    alike = cold["any-order", 0.9]
    assert alike["between_low"] < plain["between"] < alike["between_high"]
    assert alike["valid_low"] < plain["valid"] < alike["valid_high"]
    assert alike["identity_high"] < plain["identity_low"]


def test_fillings_of_antibody_loops() -> None:
    """All valid, and no student's loops are nearer than those of the teacher's one evaluation."""
    rows = {(r["loops"], r["student"]): r for r in load("antibodies")["designs"]}
    assert all(abs(row["valid"] - 1) < 1e-9 for row in rows.values())
    for loops, student in rows:
        if not student.startswith("teacher"):
            plain, mine = rows[loops, "teacher"], rows[loops, student]
            assert mine["letters_tv"] > plain["letters_tv"]
            assert mine["pairs_tv"] > plain["pairs_tv"]


def test_guidance_with_three_seeds() -> None:
    rows = [row for row in load("guidance")["rows"] if row["nfe"]]

    def ends(metric: str, model: str, steps: int, scale: float) -> tuple[float, float, float]:
        asked = {"metric": metric, "model": model, "steps": steps, "scale": scale}
        here = where(rows, **asked)
        assert len(here) == 3
        found = mean_over_seeds([as_row(row) for row in here])
        return (*found.ends, found.value)

    recall = [ends("recall", "teacher", 64, scale)[2] for scale in (1, 2, 4)]
    assert ends("class_accuracy", "teacher", 64, 2)[2] > 0.995
    assert recall[0] - recall[2] > 2 * (recall[0] - recall[1]) > 0
    slow = ends("frechet", "teacher", 64, 2)
    for student in ("product student", "joint student"):
        fast = ends("frechet", student, 1, 2)
        assert fast[0] < slow[1]
        assert slow[0] < fast[1]
        assert 0.945 < ends("class_accuracy", student, 1, 2)[2] < 0.985
        assert all(ends("class_accuracy", student, k, 0)[2] > 0.25 for k in (1, 4))
        ratio = ends("frechet", student, 1, 1)[2] / ends("frechet", "teacher", 64, 1)[2]
        assert 3.5 < ratio < 4
    assert ends("frechet", "joint student", 1, 1)[0] > ends("frechet", "teacher", 64, 1)[1]


def nine_costs(source: str) -> list[Any]:
    return load(f"sudoku_{source}")["costs"]


def test_nine_by_nine_boards() -> None:
    rows = load("sudoku_teacher")["rows"]
    found = {(r["student"], r["order"], r["clues"], r["steps"]): r["valid"] for r in rows}
    valid = {key: round(value, 3) for key, value in found.items()}
    surest = "surest first"
    assert valid["teacher", "any", 0, 81] == 0
    assert valid["teacher", "any", 30, 81] == 0.085
    (whole,) = where(rows, student="teacher", order=surest, clues=0, steps=81)
    assert whole["different"] == whole["valid"] == 0.69
    assert valid["teacher", surest, 20, 81] == 0.985
    assert valid["any-order", "any", 40, 1] == 0.305
    assert valid["teacher", "any", 40, 1] == 0.03
    sixteen = max(valid["teacher", order, 40, 16] for order in ("any", surest))
    assert valid["any-order", surest, 40, 4] == 0.8 > sixteen
    assert valid["any-order", surest, 40, 8] == 0.92
    assert valid["teacher", surest, 40, 81] == 0.995
    for clues in (20, 30):
        assert valid["any-order", surest, clues, 8] < valid["teacher", surest, clues, 16]
    assert valid["any-order", surest, 0, 8] == 0.04
    assert (valid["any-order", "any", 0, 1], valid["any-order, refined", "any", 0, 1]) == (0, 0.035)
    ends = {(r["student"], r["order"], r["clues"], r["steps"]): r for r in rows}
    for key, row in ends.items():
        if key[0] == "any-order" and key != ("any-order", "any", 0, 1):
            better = ends["any-order, refined", *key[1:]]
            assert better["valid_low"] <= row["valid_high"]
    alone = load("sudoku_boards")["rows"]

    def of_boards(order: str, clues: int, steps: int) -> float:
        (row,) = where(alone, order=order, clues=clues, steps=steps)
        return round(row["valid"], 3)

    (whole,) = where(alone, order="any", clues=0, steps=1)
    assert whole["different"] == whole["valid"] == 0.07
    assert whole["valid_low"] > valid["any-order", "any", 0, 1] == 0
    assert all(
        of_boards(row["order"], 0, row["steps"]) <= 0.01 for row in alone if row["steps"] > 1
    )
    assert (of_boards("any", 40, 1), of_boards(surest, 40, 8)) == (0.06, 0.07)
    # The solved puzzles of each, far apart.
    assert ends["any-order", "any", 40, 1]["valid_low"] > 0.2
    costs = {c["model"]: c["minutes"] for s in ("teacher", "boards") for c in nine_costs(s)}
    assert round(sum(v for name, v in costs.items() if name.startswith("teacher"))) == 91
    assert (round(costs["any-order"]), round(costs["any-order of boards"])) == (17, 56)


class Judged(NamedTuple):
    """A mean over seeds, and the ends of its interval."""

    value: float
    low: float
    high: float

    def below(self, other: Judged | float) -> bool:
        """Whether the two intervals do not meet."""
        return self.high < (other.low if isinstance(other, Judged) else other)

    def meets(self, other: Judged) -> bool:
        return not self.below(other) and not other.below(self)


def methods_of(task: str, seeds: int) -> Callable[[str, str, int | None], Judged]:
    """(model, metric, steps) → what was found."""
    content = load(f"methods_{task.replace('-', '_')}")
    assert content["seeds"] == seeds
    rows = content["rows"]

    def found(model: str, metric: str, steps: int | None) -> Judged:
        (row,) = where(rows, model=model, metric=metric, steps=steps)
        return Judged(row["value"], row["low"], row["high"])

    return found


def test_methods_under_one_budget_with_a_mask() -> None:
    found = methods_of("masked-chain", 3)

    def tv(model: str, steps: int) -> Judged:
        return found(model, "bigram_tv", steps)

    def kl(model: str) -> Judged:
        return found(model, "kl_rate", 1)

    entropy = found("exact samples", "nll", None).value
    exact = kl("exact posterior")
    assert all(kl(model).value < 0.0025 for model in ("joint shared-chain", "Di4C shared-chain"))
    assert all(kl(f"joint {head}").value < 0.0045 for head in ("any-order", "autoregressive"))
    assert f"{exact.value:.2f}" == "0.58"
    for model in ("data-only shared-chain", "autoregressive network"):
        assert kl(model).below(kl("joint shared-chain"))
    assert all(0.5 < kl(model).value < exact.value for model in ("Di4C mixture", "E-MoE"))
    assert tv("theta-trapezoidal", 4).meets(tv("teacher", 8))
    assert tv("theta-trapezoidal", 8).meets(tv("teacher", 16))
    for one in ("first-hitting", "entropy-bounded"):
        assert tv(one, 64).meets(tv("exact posterior", 64))
    assert found("confidence", "nll", 64).below(0.5 * entropy)
    for same in ("ReMDM", "psi", "fitted grid"):
        assert all(tv(same, k).meets(tv("teacher", k)) for k in (1, 2, 4, 8, 16, 64))
    for narrow in ("SDTT", "D-MMD product", "D-MMD latent", "IDLM product"):
        assert found(narrow, "nll", 16).below(entropy)
    own = ("SDTT", "D-MMD product", "IDLM product", "DiMO product", "DiMO latent", "D-MMD latent")
    assert min(own, key=lambda model: tv(model, 2).value).startswith("D-MMD")
    assert tv("D-MMD product", 2).below(tv("teacher", 2))
    assert tv("D-MMD product", 16).value > 3 * tv("teacher", 16).value
    assert tv("teacher", 16).below(tv("D-MMD product", 16))
    for model in ("D-MMD shared-chain", "IDLM shared-chain"):
        assert exact.below(kl(model))
    wide = kl("DiMO shared-chain")
    assert wide.high - wide.value > 2
    assert all(tv("DiMO product", k).high - tv("DiMO product", k).value > 0.1 for k in (1, 4, 8))
    assert tv("LSD", 8).meets(tv("teacher", 8))


def test_methods_under_one_budget_with_uniform_noise() -> None:
    found = methods_of("uniform-chain", 3)

    def tv(model: str, steps: int) -> Judged:
        return found(model, "bigram_tv", steps)

    entropy = found("exact samples", "nll", None).value
    steps = (1, 2, 4, 8, 16)
    di4c = [tv("Di4C shared-chain", k) for k in steps]
    assert all(a.meets(b) for a in di4c for b in di4c)
    for model in ("joint shared-chain", "data-only shared-chain"):
        assert found(model, "nll", 16).below(entropy)
        assert all(tv(model, k).value < 0.021 for k in (1, 2, 4, 8))
        assert tv(model, 16).value > 0.028
    products = ("conditional matching", "D-MMD product", "IDLM product", "DiMO product", "DCD")
    products += ("ReDi", "Di4C mixture", "E-MoE", "VADD", "DiMO latent")
    assert all(tv("ReDi", 1).below(tv(m, 1)) for m in products if m != "ReDi")
    assert all(tv("D-MMD product", 4).below(tv(m, 4)) for m in products if m != "D-MMD product")
    assert tv("D-MMD product", 4).below(tv("teacher", 8))
    assert all(found("ReDi", "nll", k).low > entropy for k in steps)
    assert all(found("D-MMD product", "nll", k).high > entropy for k in steps)
    for narrow in ("IDLM product", "DiMO product", "DCD"):
        assert found(narrow, "nll", 16).below(entropy)
    assert tv("DiMO shared-chain", 1).low > 0.99
    assert all(tv("fitted grid", k).below(tv("teacher", k)) for k in (2, 4))
    assert all(tv("fitted grid", k).meets(tv("teacher", k)) for k in (8, 16))
    assert all(tv("teacher", k).below(tv("tau-leaping", k)) for k in (2, 4, 8))
    assert tv("tau-leaping", 16).meets(tv("teacher", 16))
    assert tv("teacher", 4).below(tv("theta-trapezoidal", 2))
    assert tv("teacher", 8).below(tv("theta-trapezoidal", 4))
    assert tv("theta-trapezoidal", 8).meets(tv("teacher", 16))
    assert tv("LSD", 8).meets(tv("teacher", 8))


def test_the_walk_wins_on_a_cpu() -> None:
    rows = load("decoding_speed")["rows"]
    aside = [row for row in rows if row["way"] != "sequential"]
    assert all(row["speed_up"] < 1.05 for row in aside)
    fixed = where(rows, way="fixed-point", batch=1)
    near = [row["speed_up"] for row in fixed if "GRU" not in row["student"]]
    assert min(near) > 0.6
    assert all(row["same_samples"] for row in rows if row["way"] == "fixed-point")
    drafted = where(rows, way="draft, shared-chain", batch=64)
    assert all(row["passes"] < 64 / 12 and row["acceptance"] > 0.93 for row in drafted)
    own = where(rows, way="draft, itself", batch=64)
    assert all(row["acceptance"] < 0.45 for row in own)


def test_methods_on_letters() -> None:
    found = methods_of("letters", 1)

    def tv(model: str, steps: int) -> Judged:
        return found(model, "bigram_tv", steps)

    def kl(model: str) -> Judged:
        return found(model, "kl_rate", 1)

    entropy = found("exact samples", "entropy", None)
    chain = "joint shared-chain"
    assert tv(chain, 1).meets(tv("exact posterior", 64))
    assert tv(chain, 1).below(tv("teacher", 64))
    assert kl(chain).value < kl("exact posterior").value / 200
    assert found(chain, "nll", 16).below(found(chain, "nll", 1))
    assert found(chain, "nll", 16).low > found("exact samples", "nll", None).high
    assert found(chain, "entropy", 16).meets(entropy)
    any_order = [found("joint any-order", "nll", k) for k in (1, 2, 4, 8, 16)]
    assert all(a.meets(b) for a in any_order for b in any_order)
    models = {row["model"] for row in where(load("methods_letters")["rows"], metric="kl_rate")}
    alone = kl("data-only shared-chain")
    assert all(alone.below(kl(one)) for one in models - {"data-only shared-chain"})
    rest = models - {"data-only shared-chain", chain}
    assert all(kl(chain).below(kl(one)) for one in rest)
    di4c = {"Di4C shared-chain", "joint half"}
    assert all(kl("Di4C shared-chain").value <= kl(one).value for one in rest - di4c)
    for same in ("VADD", "E-MoE", "joint mixture", "Di4C mixture"):
        assert all(tv(same, k).meets(tv("teacher", k)) for k in (1, 2, 4, 8, 16))
    assert all(tv("LSD", k).meets(tv("teacher", k)) for k in (1, 2, 4, 16))
    assert tv("teacher", 8).below(tv("LSD", 8))
    assert all(tv("D-MMD product", k).below(tv("teacher", k)) for k in (1, 2, 4))
    assert all(tv("teacher", k).below(tv("D-MMD product", k)) for k in (8, 16))
    assert found("D-MMD product", "entropy", 16).below(entropy)
    for method in ("D-MMD", "IDLM", "DiMO"):
        assert kl(f"{method} shared-chain").value > kl("exact posterior").value
    assert tv("theta-trapezoidal", 2).below(tv("teacher", 2))
    assert tv("teacher", 4).below(tv("theta-trapezoidal", 2))
    assert tv("theta-trapezoidal", 4).meets(tv("teacher", 8))
    assert tv("entropy-bounded", 16).value > 0.85 * tv("teacher", 1).value
    assert found("confidence", "entropy", 64).value < entropy.value / 2


def test_methods_on_boards() -> None:
    found = methods_of("boards", 3)

    def valid(model: str, steps: int) -> Judged:
        return found(model, "valid", steps)

    most = valid("teacher", 64)
    assert most.below(valid("joint autoregressive", 1))
    times = {"autoregressive": (5, 6), "any-order": (11, 12)}
    for head, (least, less) in times.items():
        ours = valid(f"joint {head}", 1)
        assert least < ours.value / most.value < less
        assert all(not ours.below(valid(f"joint {head}", k)) for k in (2, 4, 8, 16))
        product = found("conditional matching", "kl", 1).value
        assert found(f"joint {head}", "kl", 1).value < product / 9
    models = {row["model"] for row in load("methods_boards")["rows"]}
    rest = models - {"autoregressive network", "exact samples"}
    best = valid("autoregressive network", 1)
    assert all(valid(one, 1).below(best) for one in rest)
    assert valid("exact posterior", 64).value > 0.8
    assert valid("joint shared-chain", 1).value < 0.002
    assert valid("teacher", 2).below(valid("joint shared-chain", 2))
    seeds = valid("joint any-order", 1)
    assert seeds.high - seeds.low > 0.5
    for steps in (4, 8, 16):
        assert valid("teacher", steps).below(valid("joint shared-chain", steps))
        assert valid("joint half", steps).below(valid("joint shared-chain", steps))
        assert valid("joint half + D-MMD", steps).meets(valid("joint half", steps))
    others = set(SAMPLERS["masked"]) - {"confidence"}
    assert all(valid(one, 64).below(valid("confidence", 64)) for one in others)
    assert 7 < valid("confidence", 16).value / most.value < 8


def test_methods_on_names() -> None:
    found = methods_of("names", 3)

    def nll(model: str, steps: int) -> Judged:
        return found(model, "nll", steps)

    def entropy(model: str, steps: int) -> Judged:
        return found(model, "entropy", steps)

    real, most = found("test data", "entropy", None), nll("teacher", 64)
    for head in ("shared-chain", "any-order", "autoregressive"):
        assert nll(f"joint {head}", 1).below(most)
        assert entropy(f"joint {head}", 1).meets(real)
    for head in ("shared-chain", "any-order", "autoregressive"):
        assert nll("Di4C shared-chain", 1).meets(nll(f"joint {head}", 1))
        assert entropy("Di4C shared-chain", 1).meets(entropy(f"joint {head}", 1))
    assert nll("data-only shared-chain", 1).below(nll("joint shared-chain", 1))
    assert nll("autoregressive network", 1).below(nll("data-only shared-chain", 1))
    sharper = ("IDLM product", "DiMO product", "D-MMD product", "SDTT")
    for one in sharper:
        assert nll(one, 16).below(most)
        assert entropy(one, 16).below(real)
    assert nll("E-MoE", 16).below(most)
    assert entropy("E-MoE", 16).meets(real)
    products = ("conditional matching", *sharper, "E-MoE", "VADD", "Di4C mixture", "joint mixture")
    products += ("D-MMD latent", "DiMO latent")
    assert min(products, key=lambda one: nll(one, 1).value) == "IDLM product"
    assert all(
        nll(f"joint {head}", 1).value < nll("IDLM product", 1).value - 0.17
        for head in ("shared-chain", "any-order", "autoregressive")
    )
    assert entropy("IDLM product", 1).below(real)
    assert nll("teacher", 1).below(nll("DiMO shared-chain", 1))
    assert nll("D-MMD shared-chain", 1).high - nll("D-MMD shared-chain", 1).low > 2
    assert nll("joint half + D-MMD", 1).meets(nll("joint half", 1))
    assert nll("joint shared-chain", 1).below(nll("joint half", 1))
    assert nll("first-hitting", 16).meets(most)
    assert nll("theta-trapezoidal", 8).meets(most)


def test_methods_on_text() -> None:
    found = methods_of("text", 3)

    def nll(model: str, steps: int) -> Judged:
        return found(model, "nll", steps)

    def entropy(model: str, steps: int) -> Judged:
        return found(model, "entropy", steps)

    most = nll("teacher", 64)
    for head in ("any-order", "autoregressive"):
        assert nll(f"joint {head}", 1).below(most)
        assert all(nll(f"joint {head}", k).below(most) for k in (2, 4, 8, 16))
    assert most.meets(nll("joint shared-chain", 1))
    assert all(nll("joint shared-chain", k).below(most) for k in (2, 4, 8, 16))
    left = {head: f"joint {head} from the left" for head in ("any-order", "autoregressive")}
    assert nll(left["autoregressive"], 16).below(nll(left["autoregressive"], 1))
    assert nll(left["any-order"], 16).meets(nll(left["any-order"], 1))
    for head, one in left.items():
        for steps in (2, 4, 8, 16):
            assert nll(one, steps).value < nll(f"joint {head}", steps).value
    assert all(nll(left["any-order"], k).below(nll("joint any-order", k)) for k in (2, 4, 8))
    assert all(
        nll(left["autoregressive"], k).below(nll("joint autoregressive", k)) for k in (8, 16)
    )
    real, rows = found("test data", "entropy", None), load("methods_text")["rows"]
    both = "joint half + D-MMD"
    level = {r["model"] for r in where(rows, metric="entropy") if r["low"] <= real.high}
    assert level == {
        *("confidence", "D-MMD shared-chain", "DiMO shared-chain", "IDLM product", both),
        "test data",
    }
    assert all(real.high < entropy(one, 4).low for one in (both, "IDLM product"))
    assert all(nll(both, k).meets(nll("joint shared-chain", k)) for k in (1, 2, 4, 8, 16))
    for one in ("D-MMD", "IDLM"):
        assert nll("joint shared-chain", 1).value + 1 < nll(f"{one} shared-chain", 1).low
    # Its seeds have next to nothing in common.
    assert nll("DiMO shared-chain", 1).high - nll("DiMO shared-chain", 1).low > 8
    students = [f"joint {head}" for head in ("shared-chain", "any-order", "autoregressive")]
    for one in (*students, *left.values()):
        for steps in (4, 8, 16):
            assert nll("data-only shared-chain", steps).below(nll(one, steps))
    others = {row["model"] for row in load("methods_text")["rows"]} - {"test data"}
    best = nll("autoregressive network", 1)
    steps = {
        one: max(r["steps"] for r in where(load("methods_text")["rows"], model=one))
        for one in others - {"autoregressive network", "confidence", "DiMO shared-chain"}
    }
    assert all(best.below(nll(one, k)) for one, k in steps.items())
    products = ("conditional matching", "D-MMD product", "DiMO product", "SDTT", "IDLM product")
    products += ("D-MMD latent", "DiMO latent", "VADD", "E-MoE", "Di4C mixture", "joint mixture")
    assert all(nll("IDLM product", 1).below(nll(m, 1)) for m in products if m != "IDLM product")
    for one in ("D-MMD product", "D-MMD latent"):
        assert nll(one, 16).below(most)
        assert entropy(one, 16).below(entropy("teacher", 64))
    for steps in (4, 8, 16):
        rest = [m for m in products if not m.startswith("D-MMD")]
        assert all(nll("D-MMD product", steps).below(nll(m, steps)) for m in rest)
    for one in ("E-MoE", "joint mixture", "Di4C mixture"):
        assert nll(one, 1).value > nll("teacher", 1).value - 0.13


def test_orders_of_pixels() -> None:
    """Row by row is likelier; coarse to fine is nearer to real pictures in sixteen evaluations."""
    rows = load("position_orders")["rows"]
    assert {row["seed"] for row in rows} == {0}

    def nll(order: str, hidden: str) -> Judged:
        (row,) = (r for r in rows if (r["order"], r.get("hidden")) == (order, hidden))
        return Judged(row["nll"], row["nll_low"], row["nll_high"])

    def frechet(order: str, steps: int) -> Judged:
        key = (order, "frechet", steps)
        (row,) = (r for r in rows if (r["order"], r.get("metric"), r.get("steps")) == key)
        return Judged(row["value"], row["low"], row["high"])

    by_row, coarse = "row by row", "coarse to fine"
    for hidden in ("everything", "lower half"):
        assert nll(by_row, hidden).below(nll(coarse, hidden))
    assert nll(by_row, "scattered").value < nll(coarse, "scattered").value
    assert all(frechet(by_row, k).meets(frechet(coarse, k)) for k in (1, 2, 4))
    assert frechet(coarse, 16).below(frechet(by_row, 16))


def test_methods_on_digits() -> None:
    found = methods_of("digits", 1)

    def frechet(model: str, steps: int) -> Judged:
        return found(model, "frechet", steps)

    def recall(model: str, steps: int) -> Judged:
        return found(model, "recall", steps)

    without = ("teacher", *SAMPLERS["masked"])
    for mixture in ("E-MoE", "joint mixture"):
        assert all(frechet(mixture, 1).below(frechet(one, 64)) for one in without)
        assert frechet(mixture, 1).below(frechet(mixture, 16))
    assert frechet("E-MoE", 1).meets(found("test data", "frechet", None))
    others = {row["model"] for row in load("methods_digits")["rows"]} - {"E-MoE", "test data"}
    assert all(frechet("E-MoE", 1).below(frechet(one, 1)) for one in others)
    assert frechet("joint any-order", 1).meets(frechet("teacher", 64))
    for steps in (2, 4, 8, 16):
        assert frechet("joint any-order", steps).meets(frechet("joint any-order", 1))
    for one in ("joint shared-chain", "autoregressive network"):
        assert frechet("joint any-order", 1).below(frechet(one, 1))
    lost = [f"{name} shared-chain" for name in ("DiMO", "IDLM", "D-MMD")]
    lost += ["DiMO product", "DiMO latent", "IDLM product"]
    assert all(recall(one, steps).value < 0.16 for one in lost for steps in (1, 2, 4, 8, 16))
    assert frechet("D-MMD product", 16).meets(frechet("teacher", 16))
    assert recall("joint half + D-MMD", 1).below(recall("joint half", 1))
    assert found("joint half", "precision", 1).below(found("joint half + D-MMD", "precision", 1))
    assert frechet("theta-trapezoidal", 2).below(frechet("teacher", 2))
    for one in ("confidence", "entropy-bounded"):
        assert recall(one, 8).below(recall("teacher", 8))


def test_sampling_beside_the_network_alone() -> None:
    rows = [row for row in load("beside_network")["summary"] if row["target"] is not None]
    assert {row["turns"] for row in rows} == {3}
    assert all(row["ratio"] <= row["target"] for row in rows)
    assert all(row["most"] < 1.1 for row in rows if row["family"] != "SEDD uniform")
    assert max(row["most"] for row in rows) < 1.425


def test_filling_half_of_a_picture_alone() -> None:
    rows = load("filling_alone")["rows"]
    ratio = {row["student"]: row["ratio"] for row in rows}
    assert 28 < ratio["joint student"] < 35
    # In every turn, not in the median one alone.
    assert all(row["ratio_least"] > 20 for row in rows if row["student"] != "teacher")


def test_any_order_on_enumerated_problems() -> None:
    rows = load("joint_exact")["rows"]

    def kl(problem: str, student: str, steps: int) -> float:
        asked = (problem, student, steps)
        here = [r for r in rows if (r["problem"], r["student"], r["steps"]) == asked]
        seeds = {"any-order": 1 if problem == "random V=4 L=6" else 2, "autoregressive": 3}
        assert len(here) == seeds.get(student, 1)
        return sum(r["kl"] for r in here) / len(here)

    assert all(kl("xor L=4", "any-order", k) < 0.004 for k in (1, 2, 4))
    assert all(kl("random V=3 L=4", "any-order", k) < 0.02 for k in (1, 2, 4))
    random = "random V=4 L=6"
    floor = kl(random, "exact product teacher", 1)
    for steps in (1, 2, 4):
        assert kl(random, "any-order", steps) < 0.05 * floor
        assert kl(random, "any-order", steps) < kl(random, "autoregressive", steps)
