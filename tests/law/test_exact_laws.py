"""What EnumeratedLaw and MarkovLaw promise beyond the tests that hold for every law."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewjump.law.base import enumerate_states
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.log_weights import nucleus
from fewjump.law.markov import MarkovLaw
from fewjump.law.product import ProductLaw
from fewjump.random import SampleStreams

B, L, V, S = 3, 4, 3, 2
TOLERANCE = 1e-12


def positive(seed: int, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=source, dtype=torch.float64) + 0.05


def factors(seed: int = 9) -> Tensor:
    value = positive(seed, B, L, V)
    value[0, 1, 2] = 0
    return value


def table() -> Tensor:
    value = positive(1, 1, V**L) ** 3
    value[0, 5:11] = 0
    return value


def visible_steps(rows: int, steps: int) -> tuple[Tensor, Tensor]:
    transition = positive(3, rows, steps, V, V) ** 3
    transition[:, :, 1, 1] = 0
    return positive(2, rows, V), transition


def shared_table() -> EnumeratedLaw:
    return EnumeratedLaw(table(), factors())


def table_per_row() -> EnumeratedLaw:
    return EnumeratedLaw(positive(1, B, V**L), factors())


def table_by_index() -> EnumeratedLaw:
    tables = positive(1, 2, V**L)
    return EnumeratedLaw(tables, factors(), which=torch.tensor([1, 0, 1]))


def extra_token() -> EnumeratedLaw:
    return EnumeratedLaw(table(), factors(), vocab_size=V + 1)


def one_chain() -> MarkovLaw:
    return MarkovLaw(*visible_steps(1, 1), factors())


def chain_per_row() -> MarkovLaw:
    return MarkovLaw(*visible_steps(B, L - 1), factors())


def chain_by_index() -> MarkovLaw:
    return MarkovLaw(*visible_steps(2, L - 1), factors(), which=torch.tensor([1, 0, 1]))


def chain_extra_token() -> MarkovLaw:
    return MarkovLaw(*visible_steps(1, 1), factors(), vocab_size=V + 1)


def hidden(rows: int = 1, steps: int = 1, emissions: int = 1) -> MarkovLaw:
    which = torch.tensor([1, 0, 1]) if rows == 2 else None
    return MarkovLaw(
        positive(2, rows, S),
        positive(3, rows, steps, S, S),
        factors(),
        positive(4, rows, emissions, S, V),
        which=which,
    )


def hidden_by_index() -> MarkovLaw:
    return hidden(2, L - 1, L)


def hidden_per_row() -> MarkovLaw:
    return hidden(B, 1, L)


MAKERS = [
    shared_table,
    table_per_row,
    table_by_index,
    extra_token,
    one_chain,
    chain_per_row,
    chain_by_index,
    chain_extra_token,
    hidden,
    hidden_by_index,
    hidden_per_row,
]
VISIBLE = [m for m in MAKERS if "hidden" not in m.__name__]
Maker = Callable[[], EnumeratedLaw | MarkovLaw]


def brute(law: EnumeratedLaw | MarkovLaw, make: Maker) -> Tensor:
    """Probabilities (B, V^L) of the clean tokens from the definition, by nested sums."""
    states = enumerate_states(V, L)
    weight = torch.ones(B, len(states), dtype=torch.float64)
    for i in range(L):
        weight = weight * factors()[:, i, states[:, i]]
    name = make.__name__
    which = torch.tensor([1, 0, 1]) if "by_index" in name else torch.arange(B)
    if isinstance(law, EnumeratedLaw):
        base = {"shared_table": table(), "extra_token": table()}.get(name)
        tables = positive(1, 2 if "by_index" in name else B, V**L) if base is None else base
        weight = weight * (tables[which] if base is None else tables)
    else:
        shared = name in ("one_chain", "chain_extra_token", "hidden")
        chains = 2 if "by_index" in name else (1 if shared else B)
        which = torch.zeros(B, dtype=torch.int64) if shared else which
        if "hidden" in name:
            steps = L - 1 if name == "hidden_by_index" else 1
            emissions = 1 if name == "hidden" else L
            initial, move = positive(2, chains, S), positive(3, chains, steps, S, S)
            emit = positive(4, chains, emissions, S, V)
            paths = enumerate_states(S, L)
        else:
            initial, move = visible_steps(chains, 1 if shared else L - 1)
            emit, paths = torch.eye(V).double().expand(chains, 1, V, V), states
        total = torch.zeros_like(weight)
        for z in paths:
            path = initial[which, z[0]][:, None]
            for i in range(L):
                if i:
                    path = (
                        path * move[which, min(i - 1, move.shape[1] - 1), z[i - 1], z[i]][:, None]
                    )
                path = path * emit[which, min(i, emit.shape[1] - 1), z[i]][:, states[:, i]]
            total = total + path
        weight = weight * total
    return weight / weight.sum(-1, keepdim=True)


def marginals_of(probs: Tensor) -> Tensor:
    hot = torch.nn.functional.one_hot(enumerate_states(V, L), V).double()
    return torch.einsum("bs,slv->blv", probs, hot)


@pytest.mark.parametrize("make", MAKERS)
def test_against_the_definition(make: Maker) -> None:
    law = make()
    exact = brute(law, make)
    states = enumerate_states(V, L)
    each = torch.stack([law.log_prob(x.expand(B, -1)).exp() for x in states], -1)
    torch.testing.assert_close(each, exact, atol=TOLERANCE, rtol=0)
    full = law.enumerate().exp()
    assert full.shape == (B, law.vocab_size**L)
    torch.testing.assert_close(full.sum(-1), torch.ones(B).double(), atol=TOLERANCE, rtol=0)
    inside = (enumerate_states(law.vocab_size, L) < V).all(-1)
    torch.testing.assert_close(full[:, inside], exact, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(
        law.marginals()[..., :V], marginals_of(exact), atol=TOLERANCE, rtol=0
    )
    assert law.marginals().shape == (B, L, law.vocab_size)
    entropy = -torch.xlogy(exact, exact).sum(-1)
    torch.testing.assert_close(law.entropy(), entropy, atol=1e-11, rtol=0)
    product = ProductLaw(law.marginals().log())
    correlation = product.cross_entropy(product) - entropy
    torch.testing.assert_close(law.total_correlation(), correlation, atol=1e-11, rtol=0)
    # The cavity times the factor is the marginal, and the cavity ignores the factor.
    again = law.cavity() * factors()
    again = again / again.sum(-1, keepdim=True)
    torch.testing.assert_close(again, law.marginals()[..., :V], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("make", VISIBLE)
def test_tempered_sharpens_the_conditionals_left_to_right(make: Maker) -> None:
    law = make()
    exact = brute(law, make)
    for temperature, top_p in ((0.5, 1.0), (1.0, 0.7), (2.0, 0.9), (0.0, 1.0)):
        expected = torch.ones(B, 1, dtype=torch.float64)
        for i in range(L):
            prefix = exact.reshape(B, V**i, V, -1).sum(-1)
            prefix = torch.where(prefix.sum(-1, keepdim=True) > 0, prefix, 1.0)
            step = nucleus(prefix.log(), temperature, top_p).softmax(-1)
            expected = (expected[:, :, None] * step).flatten(1)
        sharp = law.tempered(temperature, top_p)
        inside = (enumerate_states(law.vocab_size, L) < V).all(-1)
        ours = sharp.enumerate().exp()[:, inside]
        torch.testing.assert_close(ours, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("make", [hidden, hidden_per_row])
def test_tempered_hidden_chain_sharpens_states_and_tokens(make: Maker) -> None:
    law = make()
    assert isinstance(law, MarkovLaw)
    greedy = law.tempered(0.0)
    # Temperature 0 follows the most likely state, then its most likely token.
    chain = law
    state = chain.state_marginals()[:, 0].argmax(-1)
    states = [state]
    for step in chain.conditionals():
        state = step[torch.arange(B), state].argmax(-1)
        states.append(state)
    z = torch.stack(states, 1)
    assert chain.emission is not None
    emission = chain.emission.expand(-1, L, -1, -1)
    position = torch.arange(L)
    tokens = (emission[chain.which[:, None], position, z] * factors()).argmax(-1)
    torch.testing.assert_close(greedy.log_prob(tokens), torch.zeros(B).double())
    assert torch.equal(greedy.sample(), tokens)


TABLES = [shared_table, table_per_row, table_by_index]
STEPS = [one_chain, chain_per_row, chain_by_index]
PAIRS = [(a, b) for kind in (TABLES, STEPS) for a in kind for b in [*kind, None]]


@pytest.mark.parametrize(("make", "target"), PAIRS)
def test_cross_entropy_is_exact(make: Maker, target: Maker | None) -> None:
    law = make()
    other = ProductLaw(positive(7, B, L, V).log()) if target is None else target()
    weights = other.enumerate().exp() if target is None else brute(target(), target)
    log_probs = brute(law, make).log()
    terms = weights * log_probs.masked_fill(weights == 0, 0.0)
    torch.testing.assert_close(law.cross_entropy(other), -terms.sum(-1), atol=1e-11, rtol=1e-12)


def test_cross_entropy_is_infinite_where_the_target_escapes() -> None:
    wide = ProductLaw(torch.zeros(B, L, V + 1, dtype=torch.float64))
    for law in (extra_token(), chain_extra_token()):
        assert bool((law.cross_entropy(wide) == torch.inf).all())
        assert bool((law.log_prob(torch.full((B, L), V)) == -torch.inf).all())


def impossible_factors() -> Tensor:
    value = factors()
    value[1] = 0
    value[1, :, 1] = 1
    return value


@pytest.mark.parametrize("kind", ["enumerated", "markov", "hidden"])
def test_rows_of_probability_zero_use_the_fallback(kind: str, generator: torch.Generator) -> None:
    weights = positive(11, B, L, V)

    def build(fallback: Callable[[], Tensor] | None) -> EnumeratedLaw | MarkovLaw:
        if kind == "enumerated":
            barred = table()
            barred[0, (enumerate_states(V, L) == 1).all(-1)] = 0
            return EnumeratedLaw(barred, impossible_factors(), fallback=fallback)
        if kind == "markov":
            return MarkovLaw(*visible_steps(1, 1), impossible_factors(), fallback=fallback)
        emission = positive(4, 1, 1, S, V)
        emission[..., 1] = 0
        start, move = positive(2, 1, S), positive(3, 1, 1, S, S)
        return MarkovLaw(start, move, impossible_factors(), emission, fallback=fallback)

    with pytest.raises(ValueError, match="no fallback"):
        build(None)
    law = build(lambda: weights)
    assert law.log_evidence.isinf().tolist() == [False, True, False]
    product = weights[1] / weights[1].sum(-1, keepdim=True)
    torch.testing.assert_close(law.marginals()[1], product, atol=TOLERANCE, rtol=0)
    expected = product.gather(-1, torch.tensor([[0], [2], [1], [1]])).log().sum()
    x0 = torch.tensor([0, 2, 1, 1]).expand(B, -1)
    torch.testing.assert_close(law.log_prob(x0)[1], expected)
    torch.testing.assert_close(
        law.enumerate().exp().sum(-1), torch.ones(B).double(), atol=TOLERANCE, rtol=0
    )
    assert not bool(law.sample(generator).isnan().any())
    # The other rows are untouched, and what is derived from the law stays valid.
    alone = law.select(torch.tensor([False, True, False]))
    torch.testing.assert_close(alone.marginals(), law.marginals()[1:2])
    assert alone.log_evidence.isinf().tolist() == [True]
    for derived in (law.tempered(0.5), law.given(x0, torch.ones(B, L, dtype=torch.bool))):
        assert bool(torch.isfinite(derived.marginals()).all())


@pytest.mark.parametrize("make", [shared_table, one_chain])
def test_given_an_impossible_token_is_certain_of_it(make: Maker) -> None:
    law = make()
    known = torch.zeros(B, L, dtype=torch.bool)
    known[:, 1] = True
    x0 = torch.full((B, L), 2)
    conditional = law.given(x0, known)  # row 0 excludes token 2 at position 1
    expected = law.marginals()[0]
    expected[1] = torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(conditional.marginals()[0], expected, atol=TOLERANCE, rtol=0)
    possible = brute(law, make)[1:] * (enumerate_states(V, L)[:, 1] == 2)
    possible = possible / possible.sum(-1, keepdim=True)
    torch.testing.assert_close(conditional.enumerate().exp()[1:], possible, atol=TOLERANCE, rtol=0)
    evidence = law.marginals()[1:, 1, 2].log() + law.log_evidence[1:]
    torch.testing.assert_close(conditional.log_evidence[1:], evidence)
    with pytest.raises(ValueError, match="outside"):
        law.given(torch.full((B, L), V), known)


@pytest.mark.parametrize("make", MAKERS)
def test_samples_follow_the_law_and_ignore_the_batch_split(make: Maker) -> None:
    chisquare = pytest.importorskip("scipy.stats").chisquare
    law = make()
    n = 20_000
    big = law.select(torch.arange(B).repeat_interleave(n))
    streams = SampleStreams(5, torch.arange(B * n))
    draws = big.sample(streams)
    powers = V ** torch.arange(L - 1, -1, -1)
    exact = brute(law, make)
    for row in range(B):
        index = (draws[row * n : (row + 1) * n] * powers).sum(-1)
        counts, expected = torch.bincount(index, minlength=V**L), exact[row] * n
        assert int(counts[exact[row] == 0].sum()) == 0
        often = expected > 5
        kept, rest = counts[often].double(), n - expected[often].sum()
        if float(rest) > 1:
            kept = torch.cat([kept, (n - kept.sum())[None]])
            expected = torch.cat([expected[often], rest[None]])
        else:
            expected = expected[often] * kept.sum() / expected[often].sum()
        assert float(chisquare(kept.numpy(), expected.numpy(), sum_check=False).pvalue) > 1e-4
    part = torch.arange(7, 31)
    again = big.select(part).sample(SampleStreams(5, part))
    assert torch.equal(again, draws[part])


def test_one_position_and_two_tokens() -> None:
    law = MarkovLaw(positive(2, 1, 2), positive(3, 1, 1, 2, 2), positive(9, B, 1, 2))
    same = EnumeratedLaw(positive(2, 1, 2), positive(9, B, 1, 2))
    for other in (law, law.tempered(0.5), same.tempered(0.5), same):
        assert bool((other.sample() < 2).all())
    torch.testing.assert_close(law.marginals(), same.marginals())
    torch.testing.assert_close(law.entropy(), same.entropy())
    torch.testing.assert_close(law.tempered(0.5).marginals(), same.tempered(0.5).marginals())


def test_entropy_of_a_long_hidden_chain_is_estimated(generator: torch.Generator) -> None:
    short = hidden()
    estimate = short.estimate_entropy(4000, generator)
    torch.testing.assert_close(estimate, short.entropy(), atol=0.06, rtol=0)
    ones = torch.ones(1, 40, V, dtype=torch.float64)
    long = MarkovLaw(positive(2, 1, S), positive(3, 1, 1, S, S), ones, positive(4, 1, 1, S, V))
    with pytest.raises(ValueError, match="estimate_entropy"):
        long.entropy()
    with pytest.raises(ValueError, match="too many"):
        long.enumerate()


def test_shapes_are_checked() -> None:
    start, move = visible_steps(1, 1)
    with pytest.raises(ValueError, match="transition must be"):
        MarkovLaw(start, move[:, 0], factors())
    with pytest.raises(ValueError, match="give an emission"):
        MarkovLaw(positive(2, 1, S), positive(3, 1, 1, S, S), factors())
    with pytest.raises(ValueError, match="emission must be"):
        MarkovLaw(start, move, factors(), positive(4, 1, 1, S, V))
    with pytest.raises(ValueError, match="which prior"):
        MarkovLaw(*visible_steps(2, 1), factors())
    with pytest.raises(ValueError, match="tables must be"):
        EnumeratedLaw(positive(1, 1, V), factors())
    with pytest.raises(ValueError, match="which prior"):
        EnumeratedLaw(positive(1, 2, V**L), factors())
    with pytest.raises(ValueError, match="smaller"):
        EnumeratedLaw(table(), factors(), vocab_size=V - 1)
