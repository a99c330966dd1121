"""A strategy in a transformers app: stock `generate` says token for token what `vlm.ask` says."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from recorder import PARAMS
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer, pipeline

import halu
from halu.engine import Local
from halu.errors import BadInput, HaluError, Unknown, Unsupported
from halu.host import disable, enable
from halu.strategy import strategies
from halu.testing.random_models import FAMILIES, random_adapter

NATIVE = {"qwen2_vl": (84, 56), "qwen2_5_vl": (56, 84), "qwen3_vl": (64, 96)}
"""Sizes that the image processor leaves alone: a host's strategies see what the model sees."""
WORDS = "rewrites the conv"
REFUSED = dict.fromkeys(("icd", "code", "caac", "ara", "carve", "vdgd"), WORDS) | {
    "agla": "needs the question in words",
    "halc": "controls the loop",
    "opera": "controls the loop",
    "sentinel": "controls the loop",
    "woodpecker": "controls the loop",
}
"""Strategies that need the conversation's words, which a host does not tell, or the host's loop."""
METHODS = [cls.name for cls in strategies if cls.kind != "decoding"]
NEW = 6
MIXED = ("greedy", "vhr+vcd", "var+m3id", "vhr+var")
EVERYWHERE = ("var", "vhr", "vcd", "m3id")
PAIRS = [
    (family, name)
    for family in FAMILIES
    for name in ((*METHODS, *MIXED) if family in ("llava", "qwen2_5_vl") else EVERYWHERE)
    if (family, name) != ("qwen2_5_vl", "fia")  # its tower has no class token
]

on_all_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def host() -> Any:
    """A stock model and its processor, by family."""
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            released = random_adapter(family)
            released.release()
            made[family] = (released.model, released.processor)
        return made[family]

    return get


@contextmanager
def enabled(model: Any, processor: Any, strategy: str, **own: Any) -> Iterator[None]:
    enable(model, processor, strategy, **own)
    try:
        yield
    finally:
        disable(model)


def conversation(text: str, *images: Any) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def inputs_of(processor: Any, *conversations: Any) -> Any:
    own = {"processor_kwargs": {"padding": True}} if len(conversations) > 1 else {}
    return processor.apply_chat_template(
        list(conversations) if len(conversations) > 1 else conversations[0],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        **own,
    )


def own_params(name: str) -> dict[str, Any]:
    """What the parts need to act on a random model."""
    return {k: v for part in name.split("+") for k, v in PARAMS.get(part, {}).items()}


def generated(model: Any, inputs: Any, **own: Any) -> list[list[int]]:
    own = {"max_new_tokens": NEW, "do_sample": False, **own}
    start = inputs["input_ids"].shape[1]
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    found = []
    for row in model.generate(**inputs, **own)[:, start:].tolist():
        stop = next((n for n, token in enumerate(row) if token in ends), len(row) - 1)
        found.append(row[: stop + 1])
    return found


def asked(adapter: Any, text: str, images: list[Any], **own: Any) -> list[int]:
    answer = Local(adapter).ask(images, text, max_new_tokens=NEW, **own)
    return [token.id for token in answer.tokens]


def snapshot(model: Any) -> Any:
    """Attention implementations, and every hook of every module."""
    config = model.config
    hooks = [
        (path, len(m._forward_hooks), len(m._forward_pre_hooks))
        for path, m in model.named_modules()
    ]
    kinds = [c._attn_implementation for c in (config, config.text_config, config.vision_config)]
    return hooks, kinds, sorted(vars(model))


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_generate_says_what_ask_says(
    family: str, name: str, host: Any, adapter: Any, picture: Any
) -> None:
    model, processor = host(family)
    image = picture(*NATIVE.get(family, (56, 56)), seed=4)
    params = own_params(name)
    inputs = inputs_of(processor, conversation("Is there a dog?", image))
    wanted = asked(
        adapter(family), "Is there a dog?", [image], strategy=name, params=params, seed=6
    )
    with enabled(model, processor, name, seed=6, **params):
        if (family, name) == ("llava_next", "vcd") or name in REFUSED:
            with pytest.raises(Unsupported, match=REFUSED.get(name, "hides this model's pictures")):
                generated(model, inputs)
            return
        assert generated(model, inputs) == [wanted]
        drawn = generated(model, inputs, do_sample=True, top_k=1)
        assert drawn == [wanted], "the second call differs"


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (family, name)
        for family, name in PAIRS
        if name not in (*REFUSED, *MIXED)
        and (family in ("llava", "qwen2_5_vl") or name in ("var", "m3id"))
    ],
)
def test_left_padded_batches_say_what_each_row_says_alone(
    family: str, name: str, host: Any, adapter: Any, picture: Any
) -> None:
    model, processor = host(family)
    size = NATIVE.get(family, (56, 56))
    several = [
        ("Is there a dog?", [picture(*size, seed=1)]),
        ("Please describe this image, and what is in it.", [picture(*size, seed=2)]),
        ("Two?", [picture(*size, seed=3), picture(*size[::-1], seed=4)]),
    ]
    params = own_params(name)
    inputs = inputs_of(processor, *(conversation(text, *images) for text, images in several))
    assert (inputs["attention_mask"] == 0).any()
    wanted = [
        asked(adapter(family), text, images, strategy=name, params=params, seed=2)
        for text, images in several
    ]
    with enabled(model, processor, name, seed=2, **params):
        assert generated(model, inputs) == wanted


@on_all_families
@pytest.mark.parametrize("name", ["vhr", "var"])
def test_beams_go_with_attention_strategies(
    family: str, name: str, host: Any, adapter: Any, picture: Any
) -> None:
    model, processor = host(family)
    image = picture(*NATIVE.get(family, (56, 56)), seed=5)
    params = PARAMS.get(name, {})
    inputs = inputs_of(processor, conversation("Is there a dog?", image))
    wanted = asked(
        adapter(family),
        "Is there a dog?",
        [image],
        strategy=f"beam+{name}",
        params={**params, "beams": 3},
    )
    with enabled(model, processor, name, **params):
        assert generated(model, inputs, num_beams=3, early_stopping=False) == [wanted]
        alone = generated(model, inputs)
        assert generated(model, inputs, num_beams=2, num_return_sequences=2)[0]
        assert generated(model, inputs) == alone


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("vcd", {}),
        ("m3id", {}),
        ("ritual", {}),
        ("sparc", PARAMS["sparc"]),
        ("glc", {"region_source": "previous"}),
    ],
)
def test_beams_with_branches_or_memories_are_refused(
    name: str, params: dict[str, Any], host: Any, picture: Any
) -> None:
    model, processor = host("llava")
    inputs = inputs_of(processor, conversation("Is there a dog?", picture()))
    with enabled(model, processor, name, **params):
        with pytest.raises(Unsupported, match=r"other branches cannot follow.*beam\+"):
            generated(model, inputs, num_beams=4, max_new_tokens=12)
        assert len(generated(model, inputs)[0]) == NEW


def test_any_exchange_of_sequences_is_noticed(host: Any, picture: Any) -> None:
    """Two sequences that said the same last token after different first ones change places."""
    model, processor = host("llava")
    talk = conversation("a", picture())
    inputs = inputs_of(processor, talk, talk)
    with enabled(model, processor, "vcd"), torch.no_grad():
        past = model(**inputs, use_cache=True).past_key_values
        for tokens in ([7, 8], [9, 9]):
            model(input_ids=torch.tensor(tokens)[:, None], past_key_values=past, use_cache=True)
        past.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(Unsupported, match="reorders"):
            model(input_ids=torch.tensor([[5], [5]]), past_key_values=past, use_cache=True)


def test_a_static_cache_is_followed(host: Any, adapter: Any, picture: Any) -> None:
    model, processor = host("llava")
    inputs = inputs_of(processor, conversation("Is there a dog?", picture()))
    for name in ("vhr", "var", "vcd"):
        params = PARAMS.get(name, {})
        wanted = asked(
            adapter("llava"), "Is there a dog?", [picture()], strategy=name, params=params
        )
        with enabled(model, processor, name, **params):
            found = generated(model, inputs, cache_implementation="static", disable_compile=True)
            assert found == [wanted]


def test_a_plain_call_has_the_rules_row(host: Any, adapter: Any, picture: Any) -> None:
    model, processor = host("llava")
    inputs = inputs_of(processor, conversation("Is there a dog?", picture()))
    with torch.no_grad():
        before = model(**inputs).logits
        with enabled(model, processor, "vcd", **PARAMS["vcd"]):
            steered = model(**inputs).logits
        after = model(**inputs).logits
    answer = Local(adapter("llava")).ask(
        picture(), "Is there a dog?", strategy="vcd", params=PARAMS["vcd"], max_new_tokens=1
    )
    assert int(steered[0, -1].argmax()) == answer.tokens[0].id
    assert torch.isneginf(steered[0, -1]).any()
    assert torch.allclose(steered[0, :-1], before[0, :-1], atol=1e-5)
    assert torch.equal(after, before)


def test_arguments_by_position_are_those_by_name(host: Any, picture: Any) -> None:
    model, processor = host("llava")
    inputs = inputs_of(processor, conversation("Is there a dog?", picture()))
    with torch.no_grad(), enabled(model, processor, "vcd", **PARAMS["vcd"]):
        named = model(**inputs).logits
        mask = {"attention_mask": inputs["attention_mask"]}
        placed = model(inputs["input_ids"], inputs["pixel_values"], **mask).logits
    assert torch.equal(placed, named)


def test_a_tokenizer_is_no_processor(host: Any) -> None:
    model, processor = host("llava")
    before = snapshot(model)
    with pytest.raises(BadInput, match="no processor of pictures"):
        enable(model, processor.tokenizer, "vcd")
    assert snapshot(model) == before


def test_pipelines_and_streamers_work_unchanged(
    host: Any, adapter: Any, picture: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = host("llava")
    pipe = pipeline("image-text-to-text", model=model, processor=processor, device="cpu")
    talk = conversation("Is there a dog?", picture())
    wanted = Local(adapter("llava")).ask(
        picture(), "Is there a dog?", strategy="vhr", max_new_tokens=NEW
    )
    own = {"max_new_tokens": NEW, "do_sample": False}
    with enabled(model, processor, "vhr"):
        found = pipe(text=talk, return_full_text=False, **own)
        assert found[0]["generated_text"].lstrip(" ") == wanted.text
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        model.generate(**inputs_of(processor, talk), streamer=streamer, **own)
    assert capsys.readouterr().out.strip() == wanted.text.strip()


# On and off


@on_all_families
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_disable_restores_everything(family: str, kind: str, host: Any, picture: Any) -> None:
    model, processor = host(family)
    model.set_attn_implementation({"text_config": kind, "vision_config": kind})
    inputs = inputs_of(processor, conversation("a", picture()))
    said = generated(model, inputs)  # transformers' first call leaves hooks of its own
    before = snapshot(model)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with enabled(model, processor, "vhr+var", **PARAMS["var"]):
        assert snapshot(model) != before
        generated(model, inputs)
    assert snapshot(model) == before
    assert generated(model, inputs) == said
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    disable(model)
    assert snapshot(model) == before
    model.set_attn_implementation({"text_config": "sdpa", "vision_config": "sdpa"})


def test_the_public_names_are_these(host: Any, picture: Any) -> None:
    assert (halu.enable, halu.disable) == (enable, disable)
    model, processor = host("llava")
    halu.enable(model, processor, "vhr", alpha=3.0)
    halu.disable(model)
    assert model.config.text_config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("strategy", "params", "error", "says"),
    [
        ("vdc", {}, Unknown, "vcd"),
        ("vcd", {"alhpa": 1}, Unknown, "alpha"),
        ("vcd", {"alpha": 99}, BadInput, "alpha=99"),
        ("vcd+vcd", {}, BadInput, "twice"),
    ],
)
def test_a_call_that_is_wrong_leaves_the_model_alone(
    strategy: str, params: dict[str, Any], error: type[HaluError], says: str, host: Any
) -> None:
    model, processor = host("llava")
    before = snapshot(model)
    with pytest.raises(error, match=says):
        enable(model, processor, strategy, **params)
    assert snapshot(model) == before


def test_a_second_strategy_is_refused(host: Any) -> None:
    model, processor = host("llava")
    with enabled(model, processor, "vcd"):
        during = snapshot(model)
        with pytest.raises(BadInput, match=r"already enabled.*disable"):
            enable(model, processor, "vhr")
        assert snapshot(model) == during
    with enabled(model, processor, "vhr"):
        assert snapshot(model) == during


@pytest.mark.parametrize("strategy", ["sample", "beam", "beam+vcd"])
def test_searches_are_generates_own(strategy: str, host: Any, picture: Any) -> None:
    model, processor = host("llava")
    inputs = inputs_of(processor, conversation("a", picture()))
    refused = pytest.raises(Unsupported, match="generate's own options")
    with enabled(model, processor, strategy), refused:
        generated(model, inputs)
    assert len(generated(model, inputs)[0]) == NEW


def test_what_cannot_be_followed_is_refused(host: Any, picture: Any) -> None:
    model, processor = host("llava")
    inputs = inputs_of(processor, conversation("a", picture()))
    with enabled(model, processor, "vcd"), torch.no_grad():
        with pytest.raises(Unsupported, match="needs a picture"):
            generated(model, inputs_of(processor, conversation("a")))
        with pytest.raises(Unsupported, match="input_ids"):
            model(inputs_embeds=torch.zeros(1, 4, 64))
        past = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(Unsupported, match="assisted"):
            model(input_ids=torch.tensor([[5, 6]]), past_key_values=past)
        assert len(generated(model, inputs)[0]) == NEW


def test_a_generation_that_breaks_off_leaves_nothing_behind(host: Any, picture: Any) -> None:
    class Broken(StoppingCriteria):
        def __call__(self, ids: Any, scores: Any, **own: Any) -> Any:
            if ids.shape[1] > length + 2:
                raise KeyboardInterrupt
            return torch.zeros(len(ids), dtype=torch.bool)

    model, processor = host("llava")
    inputs = inputs_of(processor, conversation("Is there a dog?", picture()))
    length = inputs["input_ids"].shape[1]
    with enabled(model, processor, "vhr+vcd", seed=1):
        wanted = generated(model, inputs)
        with pytest.raises(KeyboardInterrupt):
            generated(model, inputs, stopping_criteria=StoppingCriteriaList([Broken()]))
        assert generated(model, inputs) == wanted


def test_a_model_that_nobody_holds_is_freed(picture: Any) -> None:
    released = random_adapter("llava")
    released.release()
    model, processor = released.model, released.processor
    enable(model, processor, "vcd")
    generated(model, inputs_of(processor, conversation("a", picture())))
    gone = weakref.ref(model)
    del released, model
    gc.collect()
    assert gone() is None
