"""The recipe teaches, the folders it writes are the hub's kind, and the shipped models see."""

import itertools
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor

import halu.models
from halu.grounding import towers
from halu.scenes import draw
from halu.training import (
    clip,
    clip_shape,
    corpus,
    dialect,
    language,
    llava,
    llava_shape,
    measure,
    qwen,
    qwen_shape,
    settings,
    tokens,
    tower_stage,
    truth_files,
    words,
)
from halu.training.curve import Curve
from halu.training.features import Features
from halu.training.lesson import Lesson
from halu.training.optimizer import Both

MODELS = Path(halu.models.__file__).parent
LIMITS = {"tiny-llava": 25e6, "tiny-qwen": 25e6, "tiny-clip": 15e6}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Small steps; more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes() -> corpus.Corpus:
    """A handful of scenes, drawn here rather than by worker processes."""
    made = [corpus._one((seed, "train")) for seed in range(24)]
    pixels = {side: np.stack([one[1][side] for one in made]) for side in corpus.GRIDS}
    owners = {side: np.stack([one[2][side] for one in made]) for side in corpus.GRIDS}
    return corpus.Corpus(
        [truth_files.blank(one[0], corpus.size_of(one[0].seed)) for one in made], pixels, owners
    )


@pytest.fixture(scope="module")
def bpe(scenes: corpus.Corpus) -> Tokenizer:
    """A vocabulary of those scenes."""
    return llava.vocabulary(scenes.scenes, 0)


def _run(folder: Path, **changes: int) -> settings.Run:
    return settings.Run(
        out=folder / "out", work=folder / "work", batch=12, compiled=False, **changes
    )


def _first_and_last(curve: Curve, metric: str) -> tuple[float, float]:
    values = [float(row["value"]) for row in curve.rows() if row["metric"] == metric]
    return values[0], values[-1]


@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_a_few_tower_steps_reduce_the_loss(
    family: str, scenes: corpus.Corpus, bpe: Tokenizer, tmp_path: Path
) -> None:
    run = _run(tmp_path, tower_steps=12)
    curve = Curve(run.out / "learning_curve.csv")
    job = (
        llava.tower_job(llava_shape.build(bpe, 0))
        if family == "llava"
        else qwen.tower_job(qwen_shape.build(bpe, 0))
    )
    tower_stage.train(job, scenes, scenes, run, curve)
    before, after = _first_and_last(curve, "loss")
    assert after < 0.9 * before
    curve.draw(run.out / "learning_curve.png")
    assert (run.out / "learning_curve.png").stat().st_size > 1000


def test_words_then_language_reduce_the_loss_and_a_run_resumes(
    scenes: corpus.Corpus, bpe: Tokenizer, tmp_path: Path
) -> None:
    run = _run(tmp_path, steps=6)
    curve = Curve(run.out / "learning_curve.csv")
    model = llava_shape.build(bpe, 0)
    job = llava.tower_job(model)
    features = Features(job.patches, scenes.pixels[job.side], run.device)
    spoken = dialect.llava(tokens.llava_tokenizer(bpe))
    vectors = words.name_vectors(spoken, model.model.language_model.embed_tokens)
    bridge = model.model.multi_modal_projector
    words.train(bridge, bridge, features, scenes, job.side, vectors, 1, run, curve, steps=40)
    before, after = _first_and_last(curve, "loss")
    assert after < before
    speaker = llava.speaker(model, spoken)
    batch = language.compose(speaker, scenes.scenes[:12], "chat", 0.4, random.Random(0))
    with torch.no_grad():
        start = language.loss(speaker, features[range(12)], batch)[0].item()
    language.train(
        speaker, features, scenes, (features, scenes), Lesson(alone=0, full=0), run, curve
    )
    with torch.no_grad():
        assert language.loss(speaker, features[range(12)], batch)[0].item() < 0.95 * start
    rows = len(curve.rows())
    language.train(speaker, features, scenes, (features, scenes), Lesson(), run, curve)
    assert len(curve.rows()) == rows, "a finished run has nothing left to do"


def test_clip_steps_reduce_the_loss(scenes: corpus.Corpus, bpe: Tokenizer) -> None:
    model = clip_shape.build(bpe, 0)
    reader = clip_shape.tokenizer(bpe)
    optimizer = Both({"clip": model}, lr=1e-3)
    values = []
    for _ in range(6):
        rng = random.Random(0)
        value, _ = clip.loss(model, reader, clip.samples(scenes, np.arange(16), rng), rng)
        value.backward()
        optimizer.step(1.0)
        values.append(value.item())
    assert values[-1] < values[0]


def test_the_training_towers_equal_the_stock_forward(bpe: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    stock = llava_shape.build(bpe, 0).eval().model.vision_tower
    raw = rng.integers(0, 255, (2, 112, 112, 3), np.uint8)
    pixels = llava_shape.processor(bpe).image_processor(list(raw), return_tensors="pt")[
        "pixel_values"
    ]
    with torch.no_grad():
        want = stock(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        assert torch.allclose(towers.clip_patches(stock, torch.from_numpy(raw)), want, atol=1e-4)


def test_a_written_folder_reloads_with_equal_logits_and_trains_on_the_same_ids(
    scenes: corpus.Corpus, bpe: Tokenizer, tmp_path: Path
) -> None:
    made = {
        "llava": (llava_shape, llava_shape.build(bpe, 0).eval(), llava, dialect.llava),
        "qwen": (qwen_shape, qwen_shape.build(bpe, 0).eval(), qwen, dialect.qwen),
    }
    for name, (shape, model, family, spoken_by) in made.items():
        folder = tmp_path / name
        shape.save(model, bpe, folder)
        loaded, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        processor = AutoProcessor.from_pretrained(folder)
        scene = draw(0)
        spoken = spoken_by(processor.tokenizer)
        text = processor.apply_chat_template(_messages())
        inputs = processor(images=[Image.fromarray(scene.image)], text=text, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        line = _line(spoken)
        assert ids[: len(line)] == line
        with torch.no_grad():
            want, got = model(**inputs).logits, loaded.eval()(**inputs).logits
        assert torch.equal(want, got)
        side = family.tower_job(model).side
        image = torch.from_numpy(corpus.reduced(scene.image, side).copy())[None]
        with torch.no_grad():
            seen = (
                towers.clip_patches(model.model.vision_tower, image)
                if name == "llava"
                else towers.qwen_groups(model.model.visual, image)
            )
            states = family.speaker(model, spoken).hidden(seen, inputs["input_ids"])
            assert torch.allclose(model.lm_head(states), want, atol=2e-2)


TOLD = (
    ("Is there a dog in the image?", "Yes, there are two dogs."),
    ("How many cars are there in the image?", "2"),
    ("What color is the car?", "Red"),
)


def _line(spoken: dialect.Dialect) -> list[int]:
    """The conversation as training writes it."""
    ids = list(spoken.opening()[0])
    for number, (question, answer) in enumerate(TOLD):
        asked, answered = spoken.turn(question, answer, number == 0)
        ids += asked + answered
    return ids


def _messages() -> list[dict[str, object]]:
    """The conversation as a user of transformers writes it."""
    messages: list[dict[str, object]] = []
    for question, answer in TOLD:
        first: list[dict[str, str]] = [] if messages else [{"type": "image"}]
        messages.append({"role": "user", "content": [*first, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def test_the_curve_of_the_lesson_never_jumps() -> None:
    lesson = Lesson()
    shares = [lesson.natural(step / 1000) for step in range(1001)]
    assert shares[0] == 0
    assert max(b - a for a, b in itertools.pairwise(shares)) < 0.01
    assert shares[-1] < 1, "bare pairs stay in the mixture"


@pytest.mark.parametrize("name", LIMITS)
def test_shipped_folders_are_complete_and_small(name: str) -> None:
    folder = MODELS / name
    files = {path.name for path in folder.iterdir()}
    written = {"README.md", "learning_curve.csv", "learning_curve.png", "recipe.json"}
    assert written | {"tokenizer.json"} <= files
    assert sum(path.stat().st_size for path in folder.iterdir()) < LIMITS[name]
    assert name in (folder / "README.md").read_text()
    assert json.loads((folder / "recipe.json").read_text())["model"] == name


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "tiny-llava",
            (
                "vision_tower.vision_model.embeddings.patch_embedding.weight",
                "multi_modal_projector.linear_1.weight",
                "language_model.model.embed_tokens.weight",
                "language_model.lm_head.weight",
            ),
        ),
        (
            "tiny-qwen",
            ("visual.patch_embed.proj.weight", "model.embed_tokens.weight", "lm_head.weight"),
        ),
    ],
)
def test_shipped_key_names_are_the_hubs(name: str, keys: tuple[str, ...]) -> None:
    with safe_open(MODELS / name / "model.safetensors", "pt") as file:
        found = set(file.keys())
        assert set(keys) <= found
        assert {str(file.get_tensor(key).dtype) for key in keys} == {"torch.float32"}


@pytest.mark.parametrize("name", ["tiny-llava", "tiny-qwen"])
def test_shipped_models_answer_sensibly(name: str) -> None:
    subject = measure.Subject(MODELS / name)
    scenes = [draw(seed, split="test") for seed in range(12)]
    assert (
        measure.pope(subject, scenes, "random", " Please answer this question with one word.")[
            "accuracy"
        ]
        > 0.75
    )
    caption = next(subject.answers(scenes, [(0, measure.CAPTION)], 96))
    assert measure.named(caption) & scenes[0].names
    assert caption.endswith("."), "the caption ends by itself"


def test_shipped_clip_prefers_what_is_there() -> None:
    open_clip = pytest.importorskip("open_clip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, _, preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{MODELS / 'tiny-clip'}"
        )
        words_of = open_clip.get_tokenizer(f"local-dir:{MODELS / 'tiny-clip'}")
    scenes = [draw(seed, split="test") for seed in range(8)]
    images = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in scenes])
    with torch.no_grad():
        texts = words_of([f"a photo of a {name}" for name in measure.NAMES])
        scores = (
            model.encode_image(images, normalize=True) @ model.encode_text(texts, normalize=True).T
        )
    best = [
        measure.NAMES[i] in scene.names
        for i, scene in zip(scores.argmax(-1).tolist(), scenes, strict=True)
    ]
    assert np.mean(best) > 0.7
