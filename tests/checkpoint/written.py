"""Checkpoints as the originals write them, made here: no code of theirs is needed.

Pickles of Lightning name classes of OmegaConf, transformers and tokenizers. Stand-ins of the same
names take their place while a file is written.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, silu

V, HIDDEN, HEADS, BLOCKS, CONDITION, LENGTH = 7, 16, 2, 2, 8, 6


def network(vocab_size: int = V, classes: int = 0, seed: int = 0) -> OrderedDict[str, Tensor]:
    """A random network with the originals' names, in the order in which they register them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    out = OrderedDict[str, Tensor]()
    out["vocab_embed.embedding"] = draw(vocab_size, HIDDEN)
    out["sigma_map.mlp.0.weight"] = draw(CONDITION, 256)
    out["sigma_map.mlp.0.bias"] = draw(CONDITION)
    out["sigma_map.mlp.2.weight"] = draw(CONDITION, CONDITION)
    out["sigma_map.mlp.2.bias"] = draw(CONDITION)
    if classes:
        out["cond_map.embedding_table.weight"] = draw(classes, CONDITION)
    out["rotary_emb.inv_freq"] = 1 / 10_000 ** (
        torch.arange(0, HIDDEN // HEADS, 2).float() / (HIDDEN // HEADS)
    )
    for i in range(BLOCKS):
        for name, shape in (
            ("norm1.weight", (HIDDEN,)),
            ("attn_qkv.weight", (3 * HIDDEN, HIDDEN)),
            ("attn_out.weight", (HIDDEN, HIDDEN)),
            ("norm2.weight", (HIDDEN,)),
            ("mlp.0.weight", (4 * HIDDEN, HIDDEN)),
            ("mlp.0.bias", (4 * HIDDEN,)),
            ("mlp.2.weight", (HIDDEN, 4 * HIDDEN)),
            ("mlp.2.bias", (HIDDEN,)),
            ("adaLN_modulation.weight", (6 * HIDDEN, CONDITION)),
            ("adaLN_modulation.bias", (6 * HIDDEN,)),
        ):
            out[f"blocks.{i}.{name}"] = draw(*shape)
    out["output_layer.norm_final.weight"] = draw(HIDDEN)
    out["output_layer.linear.weight"] = draw(vocab_size, HIDDEN)
    out["output_layer.linear.bias"] = draw(vocab_size)
    out["output_layer.adaLN_modulation.weight"] = draw(2 * HIDDEN, CONDITION)
    out["output_layer.adaLN_modulation.bias"] = draw(2 * HIDDEN)
    return out


def reference(
    tensors: Mapping[str, Tensor], x: Tensor, sigma: Tensor, label: int | None = None
) -> Tensor:
    """The shared network of the originals, plainly, in float64: (B, L) tokens → (B, L, V)."""
    w = {name: value.double() for name, value in tensors.items()}

    def linear(name: str, h: Tensor) -> Tensor:
        out = h @ w[f"{name}.weight"].T
        return out + w[f"{name}.bias"] if f"{name}.bias" in w else out

    def norm(name: str, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        h = layer_norm(h, h.shape[-1:], eps=1e-5) * w[f"{name}.weight"]
        return h * (1 + scale) + shift

    frequencies = torch.exp(-torch.arange(128).double() / 128 * torch.log(torch.tensor(1e4)))
    angle = sigma.double()[:, None] * frequencies
    c = torch.cat([angle.cos(), angle.sin()], -1)
    c = silu(linear("sigma_map.mlp.2", silu(linear("sigma_map.mlp.0", c))))
    if label is not None:
        c = c + silu(w["cond_map.embedding_table.weight"][label])
    h = w["vocab_embed.embedding"][x]
    turn = torch.arange(x.shape[1]).double()[:, None] * w["rotary_emb.inv_freq"]
    cos, sin = turn.cos(), turn.sin()

    def rotated(v: Tensor) -> Tensor:
        first, second = v.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    half = w["rotary_emb.inv_freq"].shape[0]
    blocks = 1 + max(int(n.split(".")[1]) for n in w if n.startswith("blocks."))
    for i in range(blocks):
        parts = linear(f"blocks.{i}.adaLN_modulation", c)[:, None].chunk(6, -1)
        inner = norm(f"blocks.{i}.norm1", h, parts[0], parts[1])
        qkv = linear(f"blocks.{i}.attn_qkv", inner).unflatten(-1, (3, -1, 2 * half))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        weights = (rotated(q) @ rotated(k).mT / (2 * half) ** 0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        h = h + parts[2] * linear(f"blocks.{i}.attn_out", mixed)
        inner = norm(f"blocks.{i}.norm2", h, parts[3], parts[4])
        inner = gelu(linear(f"blocks.{i}.mlp.0", inner), approximate="tanh")
        h = h + parts[5] * linear(f"blocks.{i}.mlp.2", inner)
    shift, scale = linear("output_layer.adaLN_modulation", c)[:, None].chunk(2, -1)
    return linear("output_layer.linear", norm("output_layer.norm_final", h, shift, scale))


# -- files ---------------------------------------------------------------------------------------


def shadow(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """An average as the originals store it: values without names, and no buffers."""
    return [value for name, value in tensors.items() if name != "rotary_emb.inv_freq"]


def lightning(
    path: Path,
    raw: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None,
    config: Mapping[str, Any] | None,
    tokenizer: Any = None,
    prefix: str = "backbone.",
    beside: Mapping[str, Tensor] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """A Lightning checkpoint; ``config`` is stored as OmegaConf would be."""
    with stand_ins() as make:
        value: dict[str, Any] = {
            "epoch": 1,
            "global_step": 3,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": OrderedDict(
                {**{prefix + name: value for name, value in raw.items()}, **(beside or {})}
            ),
            "loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 1}}}},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}],
            **(extra or {}),
        }
        if config is not None:
            hyper = {"config": make.config(config), "tokenizer": make.tokenizer(tokenizer)}
            value["hyper_parameters"] = hyper
        if ema is not None:
            value["ema"] = {"decay": 0.9999, "num_updates": 3, "shadow_params": shadow(ema)}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(value, path)
    return path


def sedd_run(
    folder: Path, raw: Mapping[str, Tensor], ema: Mapping[str, Tensor], config: dict[str, Any]
) -> Path:
    """A SEDD run folder."""
    weights = folder / "checkpoints-meta" / "checkpoint.pth"
    weights.parent.mkdir(parents=True)
    state = {
        # SEDD's own warm-up makes the learning rate a NumPy number.
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(3e-4)}]},
        "model": OrderedDict(raw),
        "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": shadow(ema)},
        "step": 3,
    }
    torch.save(state, weights)
    (folder / ".hydra").mkdir()
    # YAML reads JSON.
    (folder / ".hydra" / "config.yaml").write_text(json.dumps(config))
    return folder


def folder(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], binary: bool = False
) -> Path:
    """A hub folder: config.json and model.safetensors, or pytorch_model.bin."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if binary:
        torch.save(OrderedDict(tensors), path / "pytorch_model.bin")
    else:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path / "model.safetensors")
    return path


def prefixed(tensors: Mapping[str, Tensor], prefix: str = "backbone.") -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


# -- configurations ------------------------------------------------------------------------------

MODEL = {"hidden_size": HIDDEN, "cond_dim": CONDITION, "length": LENGTH, "n_blocks": BLOCKS}
MODEL |= {"n_heads": HEADS, "scale_by_sigma": True, "dropout": 0.1}
LOGLINEAR = {"type": "loglinear", "sigma_min": "1e-4", "sigma_max": 20}


def sedd_config(graph: str = "absorb", vocab_size: int = V, **changes: Any) -> dict[str, Any]:
    return {
        "tokens": vocab_size - (graph == "absorb"),
        "graph": {"type": graph, "file": "data", "report_all": False},
        "noise": dict(LOGLINEAR),
        "model": {**MODEL, "scale_by_sigma": graph == "absorb"},
        "training": {"ema": 0.9999},
        **changes,
    }


def mdlm_config(**changes: Any) -> dict[str, Any]:
    """Of the code bases of MDLM and UDLM."""
    return {
        "mode": "train",
        "diffusion": "absorbing_state",
        "backbone": "dit",
        "parameterization": "subs",
        "time_conditioning": False,
        "T": 0,
        "subs_masking": False,
        "noise": dict(LOGLINEAR),
        "model": dict(MODEL),
        "loader": {"batch_size": "${div_up:${.global_batch_size}, 2}"},
        **changes,
    }


def sdtt_config(**changes: Any) -> dict[str, Any]:
    """Of SDTT's code, whose folders on the hub hold the whole configuration, unresolved."""
    return {
        "parameterization": {"name": "multi-round-sdtt", "distill_mode": "kl-bwd"},
        "time_conditioning": False,
        "T": 1024,
        "noise": dict(LOGLINEAR),
        "model": {**MODEL, "name": "small", "type": "ddit-orig"},
        "tokenizer": {"name": "gpt2"},
        "data_preprocess": {"seq_len": "${model.length}"},
        **changes,
    }


def duo_config(name: str = "duo", parameterization: str = "mean", **algo: Any) -> dict[str, Any]:
    return {
        "mode": "train",
        "algo": {
            "name": name,
            "backbone": "dit",
            "parameterization": parameterization,
            "time_conditioning": name != "mdlm",
            "causal_attention": False,
            **algo,
        },
        "noise": {"type": "log-linear", "eps": 1e-3},
        "model": dict(MODEL),
    }


def published_config(kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": [kind.upper()],
        "model_type": kind,
        "vocab_size": V,
        "model_length": LENGTH,
        "hidden_dim": HIDDEN,
        "time_conditioning": kind != "mdlm",
        **changes,
    }


# -- stand-ins -----------------------------------------------------------------------------------


class _Make:
    """Objects of the stand-in classes."""

    def __init__(self, classes: dict[str, type]) -> None:
        self.classes = classes

    def new(self, name: str, **state: Any) -> Any:
        made = object.__new__(self.classes[name])
        made.__dict__.update(state)
        return made

    def config(self, value: Any) -> Any:
        """A tree of DictConfig, ListConfig and AnyNode."""
        if isinstance(value, Mapping):
            content = {key: self.config(entry) for key, entry in value.items()}
            return self.new("DictConfig", _metadata=None, _parent=None, _content=content)
        if isinstance(value, list | tuple):
            return self.new("ListConfig", _content=[self.config(entry) for entry in value])
        return self.new("AnyNode", _metadata=None, _parent=None, _val=value)

    def tokenizer(self, state: Any) -> Any:
        """A tokenizer with these attributes; ``_tokenizer`` may be JSON of the fast one."""
        if state is None:
            return self.new("TokenizersBackend", _special_tokens_map={"mask_token": None})
        state = dict(state)
        for name in ("_mask_token", "mask_token"):
            if isinstance(state.get(name), dict):
                state[name] = self.new("AddedToken", **state[name])
        if "_tokenizer" in state:
            fast = object.__new__(self.classes["Tokenizer"])
            fast.text = state["_tokenizer"]
            state["_tokenizer"] = fast
        return self.new("TokenizersBackend", **state)


@contextmanager
def stand_ins() -> Iterator[_Make]:
    """Register the stand-in classes for as long as a file is written."""
    homes = {
        "DictConfig": "omegaconf.dictconfig",
        "ListConfig": "omegaconf.listconfig",
        "AnyNode": "omegaconf.nodes",
        "TokenizersBackend": "transformers.tokenization_utils_tokenizers",
        "AddedToken": "tokenizers",
        "Tokenizer": "tokenizers",
    }
    classes: dict[str, type] = {}
    modules = {home: ModuleType(home) for home in homes.values()}
    for parent in {home.partition(".")[0] for home in homes.values()} - set(modules):
        modules[parent] = ModuleType(parent)
    for name, home in homes.items():
        body: dict[str, Any] = {"__module__": home}
        if name == "Tokenizer":
            body["__getstate__"] = lambda self: self.text.encode()
            body["__setstate__"] = lambda self, state: None
        classes[name] = type(name, (), body)
        setattr(modules[home], name, classes[name])
    kept = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield _Make(classes)
    finally:
        for name, module in kept.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
