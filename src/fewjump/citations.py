"""BibTeX for the paper behind the library and for every published method it implements."""

from __future__ import annotations

import re

_PAPER = "conditional-matching"

# name: (key, title, authors, year, arXiv number)
_WORKS: dict[str, tuple[str, str, str, int, str]] = {
    _PAPER: (
        "gao2025distillation",
        "Distillation of Discrete Diffusion by Exact Conditional Distribution Matching",
        "Gao, Yansong and Sun, Yu",
        2025,
        "2512.12889",
    ),
    "d3pm": (
        "austin2021structured",
        "Structured Denoising Diffusion Models in Discrete State-Spaces",
        "Austin, Jacob and Johnson, Daniel D. and Ho, Jonathan and Tarlow, Daniel and "
        "van den Berg, Rianne",
        2021,
        "2107.03006",
    ),
    "sdtt": (
        "deschenaux2024beyond",
        "Beyond Autoregression: Fast LLMs via Self-Distillation Through Time",
        "Deschenaux, Justin and Gulcehre, Caglar",
        2024,
        "2410.21035",
    ),
    "idlm": (
        "li2026idlm",
        "{IDLM}: Inverse-distilled Diffusion Language Models",
        "Li, David and Gushchin, Nikita and Abulkhanov, Dmitry and Moulines, Eric and "
        "Oseledets, Ivan and Panov, Maxim and Korotin, Alexander",
        2026,
        "2602.19066",
    ),
    "di4c": (
        "hayakawa2024distillation",
        "Distillation of Discrete Diffusion through Dimensional Correlations",
        "Hayakawa, Satoshi and Takida, Yuhta and Imaizumi, Masaaki and Wakaki, Hiromi and "
        "Mitsufuji, Yuki",
        2024,
        "2410.08709",
    ),
    "vadd": (
        "xie2025variational",
        "Variational Autoencoding Discrete Diffusion with Enhanced Dimensional Correlations "
        "Modeling",
        "Xie, Tianyu and Xue, Shuchen and Feng, Zijin and Hu, Tianyang and Sun, Jiacheng and "
        "Li, Zhenguo and Zhang, Cheng",
        2025,
        "2505.17384",
    ),
    "e-moe": (
        "ivanov2026emoe",
        "{E-MoE}: Enhanced Mixture-of-Experts for Non-Factorized Diffusion Language Models",
        "Ivanov, Arseny and Kolesov, Alexander and Korotin, Alexander and Oseledets, Ivan and "
        "Goncharov, Mikhail",
        2026,
        "2609.37533",
    ),
    "lsd": (
        "fu2025learnable",
        "Learnable Sampler Distillation for Discrete Diffusion Models",
        "Fu, Feiyang and Guo, Tongxian and Liu, Zhaoqiang",
        2025,
        "2509.19962",
    ),
    "dimo": (
        "zhu2025dimo",
        "{Di[M]O}: Distilling Masked Diffusion Models into One-step Generator",
        "Zhu, Yuanzhi and Wang, Xi and Lathuili{\\`e}re, St{\\'e}phane and Kalogeiton, Vicky",
        2025,
        "2503.15457",
    ),
    "rewards": (
        "ziegler2019finetuning",
        "Fine-Tuning Language Models from Human Preferences",
        "Ziegler, Daniel M. and Stiennon, Nisan and Wu, Jeffrey and Brown, Tom B. and "
        "Radford, Alec and Amodei, Dario and Christiano, Paul and Irving, Geoffrey",
        2019,
        "1909.08593",
    ),
    "d-mmd": (
        "hoogeboom2026beyond",
        "Beyond Single Tokens: Distilling Discrete Diffusion Models via Discrete {MMD}",
        "Hoogeboom, Emiel and Ruhe, David and Heek, Jonathan and Mensink, Thomas and Salimans, Tim",
        2026,
        "2603.20155",
    ),
    "tau-leaping": (
        "campbell2022continuous",
        "A Continuous Time Framework for Discrete Denoising Models",
        "Campbell, Andrew and Benton, Joe and De Bortoli, Valentin and Rainforth, Tom and "
        "Deligiannidis, George and Doucet, Arnaud",
        2022,
        "2205.14987",
    ),
    "sedd": (
        "lou2023discrete",
        "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution",
        "Lou, Aaron and Meng, Chenlin and Ermon, Stefano",
        2023,
        "2310.16834",
    ),
    "mdlm": (
        "sahoo2024simple",
        "Simple and Effective Masked Diffusion Language Models",
        "Sahoo, Subham Sekhar and Arriola, Marianne and Schiff, Yair and Gokaslan, Aaron and "
        "Marroquin, Edgar and Chiu, Justin T. and Rush, Alexander and Kuleshov, Volodymyr",
        2024,
        "2406.07524",
    ),
    "first-hitting": (
        "zheng2024masked",
        "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit "
        "Inaccurate Categorical Sampling",
        "Zheng, Kaiwen and Chen, Yongxin and Mao, Hanzi and Liu, Ming-Yu and Zhu, Jun and "
        "Zhang, Qinsheng",
        2024,
        "2409.02908",
    ),
    "flow-matching": (
        "gat2024discrete",
        "Discrete Flow Matching",
        "Gat, Itai and Remez, Tal and Shaul, Neta and Kreuk, Felix and Chen, Ricky T. Q. and "
        "Synnaeve, Gabriel and Adi, Yossi and Lipman, Yaron",
        2024,
        "2407.15595",
    ),
    "redi": (
        "yoo2025redi",
        "{ReDi}: Rectified Discrete Flow",
        "Yoo, Jaehoon and Kim, Wonjung and Hong, Seunghoon",
        2025,
        "2507.15897",
    ),
    "udlm": (
        "schiff2024simple",
        "Simple Guidance Mechanisms for Discrete Diffusion Models",
        "Schiff, Yair and Sahoo, Subham Sekhar and Phung, Hao and Wang, Guanghan and "
        "Boshar, Sam and Dalla-torre, Hugo and de Almeida, Bernardo P. and Rush, Alexander and "
        "Pierrot, Thomas and Kuleshov, Volodymyr",
        2024,
        "2412.10193",
    ),
    "theta-trapezoidal": (
        "ren2025fast",
        "Fast Solvers for Discrete Diffusion Models: Theory and Applications of High-Order "
        "Algorithms",
        "Ren, Yinuo and Chen, Haoxuan and Zhu, Yuchen and Guo, Wei and Chen, Yongxin and "
        "Rotskoff, Grant M. and Tao, Molei and Ying, Lexing",
        2025,
        "2502.00234",
    ),
    "duo": (
        "sahoo2025diffusion",
        "The Diffusion Duality",
        "Sahoo, Subham Sekhar and Deschenaux, Justin and Gokaslan, Aaron and Wang, Guanghan and "
        "Chiu, Justin and Kuleshov, Volodymyr",
        2025,
        "2506.10892",
    ),
    "dit": (
        "peebles2022scalable",
        "Scalable Diffusion Models with Transformers",
        "Peebles, William and Xie, Saining",
        2022,
        "2212.09748",
    ),
    "rotary": (
        "su2021roformer",
        "RoFormer: Enhanced Transformer with Rotary Position Embedding",
        "Su, Jianlin and Lu, Yu and Pan, Shengfeng and Murtadha, Ahmed and Wen, Bo and "
        "Liu, Yunfeng",
        2021,
        "2104.09864",
    ),
    "frechet": (
        "heusel2017gans",
        "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        "Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and "
        "Hochreiter, Sepp",
        2017,
        "1706.08500",
    ),
    "dmd": (
        "yin2023onestep",
        "One-step Diffusion with Distribution Matching Distillation",
        'Yin, Tianwei and Gharbi, Micha{\\"e}l and Zhang, Richard and Shechtman, Eli and '
        "Durand, Fr{\\'e}do and Freeman, William T. and Park, Taesung",
        2023,
        "2311.18828",
    ),
    "precision-recall": (
        "kynkaanniemi2019improved",
        "Improved Precision and Recall Metric for Assessing Generative Models",
        'Kynk{\\"a}{\\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli and '
        "Lehtinen, Jaakko and Aila, Timo",
        2019,
        "1904.06991",
    ),
    "guidance-rates": (
        "nisonoff2024unlocking",
        "Unlocking Guidance for Discrete State-Space Diffusion and Flow Models",
        "Nisonoff, Hunter and Xiong, Junhao and Allenspach, Stephan and Listgarten, Jennifer",
        2024,
        "2406.01572",
    ),
    "classifier-free": (
        "ho2022classifier",
        "Classifier-Free Diffusion Guidance",
        "Ho, Jonathan and Salimans, Tim",
        2022,
        "2207.12598",
    ),
    "any-order": (
        "campbell2025self",
        "Self-Speculative Masked Diffusions",
        "Campbell, Andrew and De Bortoli, Valentin and Shi, Jiaxin and Doucet, Arnaud",
        2025,
        "2510.03929",
    ),
    "fixed-point": (
        "song2020accelerating",
        "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving",
        "Song, Yang and Meng, Chenlin and Liao, Renjie and Ermon, Stefano",
        2020,
        "2002.03629",
    ),
    "draft": (
        "leviathan2022fast",
        "Fast Inference from Transformers via Speculative Decoding",
        "Leviathan, Yaniv and Kalman, Matan and Matias, Yossi",
        2022,
        "2211.17192",
    ),
    "entropy-bounded": (
        "benhamu2025accelerated",
        "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking",
        "Ben-Hamu, Heli and Gat, Itai and Severo, Daniel and Nolte, Niklas and Karrer, Brian",
        2025,
        "2505.24857",
    ),
    "confidence": (
        "chang2022maskgit",
        "{MaskGIT}: Masked Generative Image Transformer",
        "Chang, Huiwen and Zhang, Han and Jiang, Lu and Liu, Ce and Freeman, William T.",
        2022,
        "2202.04200",
    ),
    "remdm": (
        "wang2025remasking",
        "Remasking Discrete Diffusion Models with Inference-Time Scaling",
        "Wang, Guanghan and Schiff, Yair and Sahoo, Subham Sekhar and Kuleshov, Volodymyr",
        2025,
        "2503.00307",
    ),
    "psi": (
        "deschenaux2026diffusion",
        "The Diffusion Duality, Chapter {II}: $\\Psi$-Samplers and Efficient Curriculum",
        "Deschenaux, Justin and Gulcehre, Caglar and Sahoo, Subham Sekhar",
        2026,
        "2602.21185",
    ),
}

# What users type or read elsewhere in the library → the work it comes from.
_ALSO = {
    "paper": _PAPER,
    "ConditionalMatching": _PAPER,
    "SelfDistillation": "sdtt",
    "Rectification": "redi",
    "dcd": "duo",
    "DiscreteConsistency": "duo",
    "InverseDistillation": "idlm",
    "MomentMatching": "d-mmd",
    "TokenMatching": "dimo",
    "CorrelationDistillation": "di4c",
    "DataLikelihood": "vadd",
    "data-only": "vadd",
    "VariationalLikelihood": "vadd",
    "held-latent": "vadd",
    "RoutedLikelihood": "e-moe",
    "SamplerDistillation": "lsd",
    "scaled": "lsd",
    "JointConditionalMatching": _PAPER,
    "LatentMatching": _PAPER,
    "OnPolicyRefinement": "dmd",
    "RewardRefinement": "rewards",
    "recovery": _PAPER,
    "absorbing": "d3pm",
    "uniform": "d3pm",
    "ancestral": "d3pm",
    "analytic": "sedd",
    "euler": "sedd",
    "score-entropy": "sedd",
    "ScoreEntropy": "sedd",
    "masked": "mdlm",
    "CrossEntropyELBO": "mdlm",
    "theta-rk2": "theta-trapezoidal",
    "cosine": "duo",
    "guidance": "udlm",
    "d-cfg": "udlm",
    "transformer": "dit",
}


def citation(what: str | None = None) -> str:
    """BibTeX to cite.

    Args:
        what: the name of a method, sampler or model family used (``"sedd"``, ``"ancestral"``,
            ``"theta-trapezoidal"`` …), ``"fewjump"`` for this library, ``"all"`` for everything.
            None gives the library and the paper whose method it implements.

    Returns:
        One or more BibTeX entries.

    Raises:
        ValueError: for a name it does not know, listing those it does.

    >>> print(citation("paper").splitlines()[0])
    @article{gao2025distillation,
    """
    if what is None:
        return f"{_library()}\n\n{_article(_PAPER)}"
    if what == "all":
        return "\n\n".join([_library(), *(_article(name) for name in _WORKS)])
    if what == "fewjump":
        return _library()
    known = {_plain(name): name for name in _WORKS}
    known |= {_plain(name): work for name, work in _ALSO.items()}
    if _plain(what) not in known:
        names = sorted({*_WORKS, *_ALSO, "fewjump", "all"})
        raise ValueError(f"nothing to cite is called {what!r}; known: {', '.join(names)}")
    return _article(known[_plain(what)])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _article(name: str) -> str:
    key, title, authors, year, number = _WORKS[name]
    return _entry(
        "article",
        key,
        title=f"{{{title}}}",
        author=authors,
        year=str(year),
        journal=f"arXiv preprint arXiv:{number}",
        eprint=number,
        archivePrefix="arXiv",
    )


def _library() -> str:
    from fewjump import __version__

    return _entry(
        "software",
        "fewjump",
        title="{fewjump: few-step samplers for discrete diffusion, checked against exact truth}",
        author="{The fewjump authors}",
        year="2026",
        version=__version__,
    )


def _entry(kind: str, key: str, **fields: str) -> str:
    width = max(map(len, fields))
    lines = [f"  {name:<{width}} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
