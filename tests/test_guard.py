"""The numerical guard: batching, shared beginnings, recorded steps and kernels change no token of
an answer.

On both built-in models, for every strategy, 64 tokens: what a request says alone, by steps that are
not recorded, with nothing shared and attention in torch, it also says among all others with
everything switched on, and through the Triton kernels (in the interpreter where there is no GPU,
which is why half of those answers are shorter there).
In half precision, where rounding depends on the batch, answers may part where two tokens were near.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import zip_longest
from typing import Any

import pytest
import torch
from PIL import Image
from recorder import ONLY_ON, PARAMS, record

import halu
from halu.adapters.replay import CudaGraphs, repeated
from halu.attention import choice
from halu.engine import Local
from halu.errors import Unsupported
from halu.models import builtin
from halu.scenes import draw
from halu.strategy import strategies
from halu.types import Answer, Request
from halu.vlm import asking

MODELS = {"tiny-llava": "llava", "tiny-qwen": "qwen2_5_vl"}
TOKENS = 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEVER = -1

on_both = pytest.mark.parametrize("model", MODELS)


def names(model: str) -> list[str]:
    return [n for n in strategies.names() if MODELS[model] in ONLY_ON.get(n, MODELS.values())]


@cache
def scene() -> Image.Image:
    return Image.fromarray(draw(3, "test", 112).image)


@cache
def requests(model: str, tokens: int = TOKENS) -> dict[str, Request]:
    own: dict[str, Any] = {"max_new_tokens": tokens}
    words = ("Describe this image in detail.", "What is in the image?", "Describe this image.")
    return {
        name: asking(scene(), words[n % 3], strategy=name, params=PARAMS.get(name), seed=n, **own)
        for n, name in enumerate(names(model))
    }


@pytest.fixture(scope="module")
def loaded() -> Callable[..., Any]:
    """A model of this module's own. No token ends an answer of its, so that all are as long as they
    may be.
    """

    @cache
    def made(model: str, recorded: bool, dtype: str = "float32", device: str = "cpu") -> Any:
        if model not in builtin():
            pytest.skip(f"{model} is not in the tree")
        vlm = halu.load(model, dtype=dtype, device=device)
        assert isinstance(vlm, Local)
        vlm.adapter.model.generation_config.eos_token_id = [NEVER]
        runner = vlm.adapter.runner
        if recorded:
            runner.record(repeated if device == "cpu" else CudaGraphs(runner.device))
        runner.worth = 1 if recorded else 10**9
        return vlm

    return made


@pytest.fixture(scope="module")
def together(loaded: Any) -> Callable[..., dict[str, Answer]]:
    """All strategies' answers from one batch, steps recorded and beginnings shared."""

    @cache
    def answered(model: str, device: str = "cpu") -> dict[str, Answer]:
        asked = requests(model)
        vlm = loaded(model, True, device=device)
        return dict(zip(asked, vlm.generate(list(asked.values())), strict=True))

    return answered


def ids(answer: Answer) -> list[int]:
    return [token.id for token in answer.tokens]


@pytest.mark.slow
@on_both
@pytest.mark.parametrize("name", strategies.names())
def test_64_tokens_are_those_of_the_request_alone(
    model: str, name: str, loaded: Any, together: Any
) -> None:
    if name not in names(model):
        with pytest.raises(Unsupported):
            loaded(model, False).ask(scene(), "a", strategy=name, params=PARAMS.get(name))
        return
    (alone,) = loaded(model, False).generate([requests(model)[name]])
    mine = together(model)[name]
    assert len(alone.tokens) == TOKENS or strategies.get(name).kind == "control"
    assert ids(mine) == ids(alone)
    assert mine.usage == alone.usage


# Through the kernels


STEPS = frozenset("act adhh caac fia hgai pai sid sparc vaf var zerotuning".split())
"""Strategies that change the attention of generated tokens."""
PROMPTS = frozenset({"eah", "glc"})
"""Those that change nothing but the prompt's, or sum its columns."""


@contextmanager
def attention(best: str) -> Iterator[Counter[str]]:
    """Makes an implementation the best one; counts the kernels' calls."""
    pytest.importorskip("triton")
    from halu.attention.triton import columns, launch

    called: Counter[str] = Counter()

    def counting(what: Callable[..., str], kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **own: Any) -> Any:
            called[what(*args)] += 1
            return kernel(*args, **own)

        return call

    def step_or_rows(inputs: Any, *rest: Any) -> str:
        return "step" if inputs.q.shape[2] == 1 else "rows"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "best", lambda device: best)
        patch.setattr(launch, "weighted", counting(step_or_rows, launch.weighted))
        patch.setattr(columns, "column_mass", counting(lambda *_: "rows", columns.column_mass))
        yield called


def through_both(loaded: Any, model: str, name: str, tokens: int) -> Counter[str]:
    """The same answer through the kernels, steps recorded, as in torch; the kernels' calls."""
    request = requests(model, tokens)[name]
    with attention("reference") as called:
        (wanted,) = loaded(model, False, device=DEVICE).generate([request])
        assert not called
    with attention("triton") as called:
        (found,) = loaded(model, True, device=DEVICE).generate([request])
    assert len(found.tokens) == tokens
    assert ids(found) == ids(wanted)
    return called


def many(model: str, name: str) -> int:
    """How many tokens: the interpreter needs seconds for ten. There every second strategy says 6
    on one model and 3 on the other, the rest the other way round; with HALU_EXAMPLES all say 64.
    """
    if DEVICE == "cuda" or "HALU_EXAMPLES" in os.environ:
        return TOKENS
    return 6 if sorted(STEPS | PROMPTS).index(name) % 2 == list(MODELS).index(model) else 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@on_both
@pytest.mark.parametrize("name", sorted(STEPS | PROMPTS))
def test_an_answer_through_the_kernels_is_that_of_the_reference(
    model: str, name: str, loaded: Any
) -> None:
    if name not in names(model):
        pytest.skip(f"{name} does not run on {model}")
    tokens = many(model, name)
    called = through_both(loaded, model, name, tokens)
    assert called["step"] >= tokens - 1 or name in PROMPTS
    assert called.total() > 0


@pytest.mark.parametrize(
    ("model", "name"), [("tiny-llava", "var"), ("tiny-qwen", "sid"), ("tiny-llava", "pai")]
)
def test_a_few_tokens_through_the_kernels_are_those_of_the_reference(
    model: str, name: str, loaded: Any
) -> None:
    assert through_both(loaded, model, name, 6)["step"] >= 5


@on_both
def test_no_other_strategy_goes_through_the_kernels(model: str, loaded: Any) -> None:
    """Whoever adds one that does is told to add it above."""
    vlm = loaded(model, True, device=DEVICE)
    for name, request in requests(model, 2).items():
        if name not in STEPS | PROMPTS:
            with attention("triton") as called:
                vlm.generate([request])
            assert not called, name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@on_both
def test_a_mixed_batch_through_the_kernels_says_what_each_says_alone(
    model: str, loaded: Any
) -> None:
    """Rows without a policy lie among rows with one, and join and leave at any step."""
    asked = requests(model, 12)
    mixed = [asked[name] for name in ("greedy", "var", "vcd", "pai", "sid", "vhr")]
    with attention("reference"):
        plain = loaded(model, False, device=DEVICE)
        wanted = [ids(plain.generate([one])[0]) for one in mixed]
    with attention("triton") as called:
        found = loaded(model, True, device=DEVICE).generate(mixed)
    assert list(map(ids, found)) == wanted
    assert called["step"] >= 11


@pytest.mark.gpu
@on_both
@pytest.mark.parametrize("name", strategies.names())
def test_on_a_gpu_64_tokens_of_kernels_and_graphs_are_those_of_the_reference(
    model: str, name: str, loaded: Any, together: Any
) -> None:
    """Every strategy in one batch, CUDA graphs recorded, against each alone in torch."""
    if name not in names(model):
        pytest.skip(f"{name} does not run on {model}")
    with attention("reference"):
        (alone,) = loaded(model, False, device="cuda").generate([requests(model)[name]])
    with attention("triton"):
        found = together(model, "cuda")
    assert ids(found[name]) == ids(alone)
    assert loaded(model, True, device="cuda").adapter.runner.replays is not None


# In half precision


STEP = 0.0625
"""What bfloat16 tells apart between 8 and 16, where the built-in models' best scores lie."""
WEIGHTS = {"agla": 3, "dola": 2, "icd": 3, "m3id": 3, "ritual": 4, "sid": 3, "vcd": 3}
"""Sum of the absolute weights with which a rule adds rows of scores, where it is more than 1.2."""
LEAPS = {
    "beam": "hypotheses compete by sums, no row tells by how much",
    "code": "the description that is said first may part, and then the prompts differ",
    "deco": "the layer whose row is added is the one with the greatest number",
    "halc": "hypotheses compete by sums, no row tells by how much",
    "opera": "hypotheses compete by sums, no row tells by how much",
    "sample": "a draw falls anywhere in its row, and no margin guards it",
    "sentinel": "draws, and hypotheses that compete by sums",
    "sparc": "a threshold picks the tokens whose keys grow, for all steps to come",
    "spin": "a rank picks the heads that are kept, anew at every token",
    "vdgd": "the description that is said first may part, and then the prompts differ",
    "woodpecker": "the text is rewritten by what other texts say",
}
"""Why rounding may move a strategy further than its rule adds up."""


def half(model: str) -> dict[str, Request]:
    """Every other strategy, with the cutoff of its paper where it has one."""
    found = {name: one for name, one in requests(model).items() if name not in LEAPS}
    for name, one in found.items():
        params = {key: value for key, value in one.params.items() if key != "beta" or name == "act"}
        found[name] = one.model_copy(update={"params": params})
    return found


def test_what_is_left_out_of_half_precision_exists() -> None:
    assert set(strategies.names()) > LEAPS.keys() | WEIGHTS.keys()
    assert not LEAPS.keys() & WEIGHTS.keys()


@pytest.mark.slow
@on_both
def test_in_half_precision_answers_part_only_where_two_tokens_are_near(
    model: str, loaded: Any
) -> None:
    """Where the answer from the batch has another token than the request alone, the row of the
    request alone gives that token at most three steps of bfloat16 less than its own, times what the
    rule makes of a step. What comes after is another text. Two thirds of all tokens come before.
    Left out are the strategies in `LEAPS`, each with its reason.
    """
    asked = half(model)
    there, here = (loaded(model, recorded, "bfloat16") for recorded in (True, False))
    answers = there.generate(list(asked.values()))
    equal, told = 0, []
    for (name, one), answer in zip(asked.items(), answers, strict=True):
        run = record(here.adapter, one)
        pairs = enumerate(zip_longest(ids(answer), run.tokens))
        place, mine, its = next(((p, a, b) for p, (a, b) in pairs if a != b), (TOKENS, 0, 0))
        equal += place
        if place < TOKENS:
            row = run.ruled[place].float()
            gap, most = float(row[its] - row[mine]), 3 * STEP * WEIGHTS.get(name, 1.2)
            told += [f"{name}: {gap:.3f} > {most} at {place}"] if gap > most else []
    assert not told
    assert equal >= 2 * TOKENS * len(asked) // 3, equal / TOKENS / len(asked)
    assert here.adapter.model.dtype == torch.bfloat16
