"""Documents that share a row: each has the law that it has alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import fewjump
from fewjump.denoiser import NetworkDenoiser, Transformer, TransformerConfig
from fewjump.denoiser.attention import attend, attention_mask, document_numbers
from fewjump.objective import ConditionalMatching, CrossEntropyELBO, freeze
from fewjump.process import Absorbing, Process, Uniform
from fewjump.sampler import run
from fewjump.schedule import LogLinear

MASK, PAD, END, V = 1, 2, 5, 7
PROCESSES: dict[str, Process] = {
    "absorbing": Absorbing(V, LogLinear(), mask=MASK, kept=(PAD, END)),
    "uniform": Uniform(V, LogLinear(), kept=(PAD, END)),
}
EVERY = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
FIRST, SECOND = [0, MASK, 3, END], [MASK, 4, 6, MASK, 0]


def network(process: Process, **trunk) -> NetworkDenoiser:
    sizes = {"hidden": 8, "blocks": 2, "heads": 2, "condition_dim": 4, "conv_kernel": 3}
    sizes |= {"padding": PAD, "separator": END, **trunk}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NetworkDenoiser.from_config({"process": process.config(), "trunk": sizes})
    generator = torch.Generator().manual_seed(1)
    for parameter in model.double().parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).double()
    return model.eval()


def test_a_separator_ends_its_document() -> None:
    x = torch.tensor([[3, END, END, 4, 0], [3, 3, 3, 3, END]])
    assert document_numbers(x, END).tolist() == [[0, 0, 1, 2, 2], [0, 0, 0, 0, 0]]
    seen = attention_mask(torch.tensor([[3, END, 4, PAD]]), PAD, END, 3)
    assert seen.mask is not None
    assert seen.mask[0, 0].long().tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]
    assert seen.near is not None
    assert seen.near[0, :, 0].tolist() == [False, True, False, True]
    assert seen.near[0, :, 2].tolist() == [True, False, True, False]
    assert attention_mask(x, None, None, 3) == (None, None, None)


@EVERY
@pytest.mark.parametrize("kernel", [0, 3])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_packed_documents_have_the_logits_they_have_alone(
    process: Process, kernel: int, checkpointed: bool
) -> None:
    model = network(process, conv_kernel=kernel)
    model.trunk.checkpoint_blocks = checkpointed  # type: ignore[assignment]
    row = torch.tensor([[*FIRST, *SECOND, END, PAD, PAD]])
    found = model(row, 0.6).marginals()
    assert bool(found.isfinite().all())
    for start, document in ((0, FIRST), (4, [*SECOND, END])):
        alone = model(torch.tensor([document]), 0.6).marginals()
        part = found[:, start : start + len(document)]
        torch.testing.assert_close(part, alone, rtol=1e-9, atol=1e-12)
    # Without the option they see each other.
    blind = network(process, conv_kernel=kernel, separator=None)
    seen = blind(row, 0.6).marginals()[:, :4] - blind(row[:, :4], 0.6).marginals()
    assert seen.abs().max() > 1e-4


@EVERY
def test_a_document_alone_is_what_it_is_without_the_option(process: Process) -> None:
    """The masked convolution is the convolution, to the gradient."""
    x, grads = torch.tensor([[*SECOND, 3, 3, END]]), []
    for separator in (END, None):
        model = network(process, separator=separator)
        model(x, 0.6).log_prob(torch.where(x == MASK, 3, x)).sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-12)


@EVERY
@pytest.mark.parametrize("objective", [CrossEntropyELBO("elbo"), ConditionalMatching("forward")])
def test_a_packed_rows_loss_is_that_of_its_documents(process: Process, objective) -> None:
    """The first document's tokens leave no mark on what the second one adds to the loss."""
    student, teacher = network(process), freeze(network(process, hidden=12))
    parts = []
    for first in (3, 6):
        row = torch.tensor([[first] * 3 + [END] + [4, 6, 3, 0]])
        x_t = process.corrupt(row, 0.0, 0.7, torch.Generator().manual_seed(1))
        x_t[:, :3] = first
        for model in (student, teacher):
            parts.append(model(x_t, 0.7).marginals()[:, 4:])
    assert torch.equal(parts[0], parts[2])
    assert torch.equal(parts[1], parts[3])
    batch = torch.tensor([[3, 4, 3, END, 4, 6, 3, 0], [3, END, PAD, PAD, PAD, PAD, PAD, PAD]])
    loss, _ = objective(student, teacher, batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert bool(loss.isfinite())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())


@EVERY
def test_samples_of_a_document_do_not_depend_on_its_neighbour(process: Process) -> None:
    model, drawn = network(process), []
    fixed = torch.tensor([[True] * 4 + [False] * 5])
    for first in (3, 6):
        prompt = torch.tensor([[first, first, 0, END, 0, 0, 0, 0, 0]])
        found = run(
            model, 16, 3, generator=4, length=9, prompt=prompt.expand(16, -1),
            fixed=fixed.expand(16, -1),
        )  # fmt: skip
        drawn.append(found.samples)
        assert bool((found.samples[:, 3] == END).all())
    assert torch.equal(drawn[0][:, 4:], drawn[1][:, 4:])
    assert not torch.equal(drawn[0][:, :4], drawn[1][:, :4])


def test_what_cannot_be_is_refused_and_configurations_stay_as_they_were() -> None:
    with pytest.raises(ValueError, match=r"noise and generate; give the process kept="):
        network(Absorbing(V, LogLinear(), mask=MASK, kept=(PAD,)))
    with pytest.raises(ValueError, match="another token than padding"):
        network(PROCESSES["uniform"], padding=END)
    with pytest.raises(ValueError, match="separator must be a token below 7"):
        TransformerConfig(V, separator=9)
    assert "separator" not in TransformerConfig(V).config()
    config = TransformerConfig(V, separator=END)
    assert TransformerConfig.from_config(config.config()) == config
    assert Transformer(TransformerConfig(V)).config.separator is None


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    sys.path.insert(0, str(Path(__file__).parent))
    import tiny_hub

    from fewjump import cli

    tiny_hub.tokenizer().save_pretrained(tmp_path / "tok")
    texts = ["the cat sat", "a big dog ran", "the small cat"] * 20
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    quick = ["--steps", "1", "--batch-size", "2", "--no-progress", "--device", "cpu"]
    words = ["train", "--data", str(data), "--length", "12", "--cut-documents", *quick]
    words += ["--hidden", "8", "--blocks", "1", "--heads", "2"]
    teacher, student = tmp_path / "t", tmp_path / "s"
    whole = [*words, "--tokenizer", str(tmp_path / "tok"), "--out", str(teacher)]
    assert cli.main(whole) == cli.OK
    words_of_student = ["distill", "--teacher", str(teacher), "--data", str(data), *quick]
    assert cli.main([*words_of_student, "--out", str(student)]) == cli.OK
    for folder in (teacher, student):
        model = fewjump.load(folder / "model")
        assert model.trunk.config.separator == tiny_hub.SEP  # type: ignore[union-attr]
    assert cli.main([*words, "--out", str(tmp_path / "u")]) == cli.USAGE
    assert "give --tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("hidden", [False, True])
def test_attention_in_bfloat16_is_that_of_float32_rounded(hidden: bool) -> None:
    """Under autocast too, which would compute it in bfloat16; and so are its gradients."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 2, 3, 6, 8, generator=generator)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[1, ..., 4:] = not hidden
    q, k, v, grad = values.bfloat16()
    leaves = [part.clone().requires_grad_() for part in (q, k, v)]
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*leaves, mask)
    found.backward(grad)
    wide = [part.double().requires_grad_() for part in (q, k, v)]
    scores = (wide[0] @ wide[1].mT / 8**0.5).masked_fill(~mask, -torch.inf)
    expected = scores.softmax(-1) @ wide[2]
    expected.backward(grad.double())
    # To a rounding: bfloat16 has 8 bits.
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6)
    for mine, theirs in zip(leaves, wide):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=2**-8, atol=1e-5)
