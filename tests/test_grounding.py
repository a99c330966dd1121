"""Matchers and finders: gradient maps against slower ways to the same numbers, on random models."""

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers as tf
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from halu.errors import BadInput, Unavailable, Unsupported
from halu.grounding import Box, clip_checkpoint, open_finder, open_matcher
from halu.grounding.boxes import around, cut, distinct, grown, overlap
from halu.grounding.nouns import is_noun, singular
from halu.scenes import draw

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", "a", "is", "there", "the"]
WORDS += ["image", "dog", "cat", "red"]


def words_of(cls: Any, folder: Path) -> Any:
    """A BERT tokenizer of a few words."""
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return cls(str(folder / "vocab.txt"))


# CLIP


def test_clip_finds_the_place_of_what_is_named() -> None:
    matcher, ratios, hits = open_matcher("clip"), [], []
    for seed in range(24):
        scene = draw(seed, split="test")
        thing, side = scene.things[0], scene.image.shape[0]
        image = Image.fromarray(scene.image)
        found = matcher.relevance(image, f"is there a {thing.name} in the image?")
        heat = found.map.clip(min=0)
        y, x = (np.indices(heat.shape) + 0.5) * side / len(heat)
        left, top, right, bottom = thing.box
        inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
        if inside.any():
            ratios.append(heat[inside].mean() / heat.mean())
            names = [f"a photo of a {name}" for name in (thing.name, *scene.distractors)]
            hits.append(np.argmax(matcher.similarities(image, names)) == 0)
    assert np.mean(ratios) > 3
    assert np.mean(hits) > 0.5


def test_clips_map_is_attention_times_positive_gradient(picture: Any) -> None:
    """Once more without hooks: the derivative along each probability, by differences."""
    matcher: Any = open_matcher("clip")
    image, text = picture(90, 60), "is there a red dog?"
    found = matcher.relevance(image, text)
    tower, side = matcher._tower, 112
    square = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) / 255
    pixels = (square - np.array(tower.image_mean)) / np.array(tower.image_std)
    slow = deepcopy(tower).double()
    *front, last_but_one, last = slow.transformer.resblocks
    with torch.no_grad():
        x = slow._embeds(torch.tensor(pixels).permute(2, 0, 1)[None])
        for block in front:
            x = block(x)
        words = matcher._model.encode_text(matcher._tokenize([text]))[0].double()

        def cosine(nudges: dict[Any, tuple[int, int]]) -> float:
            y = x
            for block in (last_but_one, last):
                y = y + attended(block, y, nudges.get(block))
                y = y + block.mlp(block.ln_2(y))
            vector = (slow._pool(y)[0] @ slow.proj)[0]
            return float(vector @ words / vector.norm() / words.norm())

        plain, step = cosine({}), 1e-5
        wanted = np.zeros(64)
        for block, y in ((last_but_one, x), (last, last_but_one(x))):
            p = probabilities(block, y)
            for head in range(p.shape[0]):
                for patch in range(64):
                    slope = (cosine({block: (head, 1 + patch)}) - plain) / step
                    wanted[patch] += float(p[head, 0, 1 + patch]) * max(slope, 0) / p.shape[0]
    assert found.map.shape == (8, 8)
    assert found.map.dtype == np.float32
    assert np.abs(found.map.ravel() - wanted).max() < 1e-4 * wanted.max()
    assert found.similarity == pytest.approx(plain, abs=1e-5)
    assert matcher.similarities(image, [text, "a cat"])[0] == pytest.approx(plain, abs=1e-5)
    assert not any(block.attn._forward_hooks for block in tower.transformer.resblocks)
    assert all(weight.grad is None for weight in matcher._model.parameters())


def heads_of(block: Any, x: Tensor) -> list[Tensor]:
    """Queries, keys and values [H, T, D]."""
    width = block.attn.embed_dim // block.attn.num_heads
    qkv = block.ln_1(x)[0] @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    return [part.reshape(len(part), -1, width).transpose(0, 1) for part in qkv.chunk(3, -1)]


def probabilities(block: Any, x: Tensor) -> Tensor:
    q, k, _ = heads_of(block, x)
    return torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)


def attended(block: Any, x: Tensor, nudge: tuple[int, int] | None) -> Tensor:
    """The block's attention, one probability of the class token's row a little larger."""
    p, v = probabilities(block, x), heads_of(block, x)[2]
    if nudge:
        p[nudge[0], 0, nudge[1]] += 1e-5
    joined = (p @ v).transpose(0, 1).reshape(1, x.shape[1], -1)
    return joined @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


def test_a_matcher_may_be_opened_and_asked_in_inference_mode(picture: Any) -> None:
    open_matcher.cache_clear()
    with torch.inference_mode():
        inside = open_matcher("clip").relevance(picture(), "a dog")
    outside = open_matcher("clip").relevance(picture(), "a dog")
    assert np.allclose(inside.map, outside.map)
    assert inside.map.max() > 0


def test_a_clip_that_would_run_code(tmp_path: Path) -> None:
    config = '{"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": true}}}}'
    (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(BadInput, match="run code of its own"):
        open_matcher("clip", str(tmp_path))


NANO = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A random model of open_clip's list, in a folder with a slash in its relative name."""
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-nano", NANO)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    torch.manual_seed(0)
    return factory.create_model("ViT-nano").eval()


def test_a_clip_from_a_file(nano: Any, picture: Any, tmp_path: Path) -> None:
    save_file(nano.state_dict(), "mine/weights.safetensors")
    images = [picture(90, 60), picture(30, 30)]
    with torch.no_grad():
        squares = torch.stack([matched(image) for image in images])
        wanted = nano.encode_image(squares, normalize=True).numpy()
    for path in ("mine/weights.safetensors", str(tmp_path / "mine" / "weights.safetensors")):
        matcher: Any = open_matcher("clip", f"ViT-nano:{path}")
        assert np.allclose(matcher.vectors(images), wanted, atol=1e-5)
        assert matcher.relevance(images[0], "a dog").map.shape == (2, 2)


def matched(image: Image.Image) -> Tensor:
    """As the published CLIP takes it, at 32 pixels."""
    square = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)) / 255
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return torch.tensor((square - mean) / std, dtype=torch.float32).permute(2, 0, 1)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.pth"])
def test_a_clip_in_a_pickle_is_refused_unread(name: str, nano: Any, tmp_path: Path) -> None:
    folder, sprung = tmp_path / "mine", tmp_path / "sprung"
    torch.save({"trap": Trap(sprung)}, folder / name)
    with pytest.raises(BadInput, match=rf"{name}' is not a \.safetensors file\. Pickles"):
        open_matcher("clip", f"ViT-nano:mine/{name}")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": NANO}))
    with pytest.raises(BadInput, match=r"has no open_clip_model\.safetensors\. Pickles"):
        open_matcher("clip", str(folder))
    save_file(nano.state_dict(), folder / "open_clip_model.safetensors")
    assert open_matcher("clip", str(folder)).similarities(Image.new("RGB", (9, 9)), ["a dog"])
    assert not sprung.exists()


def test_a_listed_clip_that_is_a_pickle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(repository: str, file: str) -> str:
        asked.append(f"{repository}/{file}")
        raise EntryNotFoundError("gone")

    listed = {
        "hub": "some/clip/",
        "bin": "some/clip/other.bin",
        "pt": "some/clip/one.pt",
        "url": "",
    }
    configs = {tag: {"hf_hub": place} for tag, place in listed.items()}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-nano", configs)
    monkeypatch.setattr(clip_checkpoint, "hf_hub_download", fetch)
    for tag in listed:
        with pytest.raises(BadInput, match="Pickles can run code and are never loaded"):
            open_matcher("clip", f"ViT-nano:{tag}")
    assert asked == ["some/clip/open_clip_model.safetensors", "some/clip/other.safetensors"]


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("ViT-nano:mine/gone.safetensors", "'mine/gone.safetensors' is not a known tag or valid"),
        ("ViT-nano:mine/broken.safetensors", "cannot be loaded"),
        ("ViT-nano:mine/other.safetensors", r"Error\(s\) in loading state_dict"),
        ("ViT-nano:mine/short.safetensors", "cannot be loaded"),
        ("ViT-none:mine/broken.safetensors", "Model config for 'ViT-none'"),
        ("mine/broken.safetensors", "MODEL:TAG or MODEL:FILE"),
    ],
)
def test_a_file_that_is_no_clip(weights: str, says: str, nano: Any, tmp_path: Path) -> None:
    (tmp_path / "mine" / "broken.safetensors").write_bytes(b"no weights")
    save_file({"visual.proj": torch.zeros(2)}, "mine/other.safetensors")
    save_file({"positional_embedding": torch.zeros(2)}, "mine/short.safetensors")
    with pytest.raises((BadInput, Unavailable), match=says) as refused:
        open_matcher("clip", weights)
    assert "\n" not in str(refused.value)
    assert "hf download" not in str(refused.value)


def test_a_clip_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"open_clip_config\.json"):
        open_matcher("clip", str(tmp_path))
    with pytest.raises(BadInput, match="hub id"):
        open_matcher("clip", "nothing")
    with pytest.raises(Unavailable, match="nobody/nothing"):
        open_matcher("clip", "nobody/nothing")
    with pytest.raises(Unavailable, match="cannot be loaded"):
        open_matcher("clip", "ViT-B-32:no-such-tag")
    monkeypatch.delitem(sys.modules, "halu.grounding.clip")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    open_matcher.cache_clear()
    with pytest.raises(Unavailable, match=r"\[clip\]"):
        open_matcher("clip")


def test_only_vision_transformers_have_a_map(picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher: Any = open_matcher("clip")
    monkeypatch.setattr(matcher._tower, "pool_type", "avg")
    with pytest.raises(Unsupported, match="class token"):
        matcher.relevance(picture(), "a dog")
    assert matcher.similarities(picture(), ["a dog"])


# BLIP


def blip(folder: Path, layers: int = 8) -> Any:
    """A random BLIP with its matching head, saved."""
    torch.manual_seed(1)
    text = {
        "vocab_size": len(WORDS) + 2,  # [DEC], [ENC]
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": len(WORDS),
        "sep_token_id": WORDS.index("[SEP]"),
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
        "initializer_range": 0.3,
    }
    config = tf.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16)
    model = tf.BlipForImageTextRetrieval(config).eval()
    model.save_pretrained(folder)
    words_of(tf.BertTokenizer, folder).save_pretrained(folder)
    return model


class Nudged(torch.nn.Module):
    """In the place of the dropout on probabilities: adds zeros whose gradient is asked for."""

    def forward(self, p: Tensor) -> Tensor:
        self.seen = p.detach()
        self.zeros = torch.zeros_like(p).requires_grad_()
        return p + self.zeros


def test_blips_map_is_the_published_one(tmp_path: Path, picture: Any) -> None:
    model = blip(tmp_path)
    matcher = open_matcher("blip-itm", str(tmp_path))
    image, text = picture(90, 60), "is there a red dog in the image?"
    found = matcher.relevance(image, text)

    square = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    pixels = torch.tensor((square - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    ids = torch.tensor([[2, 9, 10, 8, 15, 13, 1, 11, 12, 7, 3]])  # "in" is not in the vocabulary
    nudged = model.text_encoder.encoder.layer[6].crossattention.self.dropout = Nudged()
    encode = ids.clone()
    encode[0, 0] = len(WORDS) + 1
    model(encode, pixels, use_itm_head=True).itm_score[:, 1].sum().backward()
    wanted = np.zeros((4, 4))
    for token in range(1, 10):
        for head in range(4):
            for key in range(16):
                p = float(nudged.seen[0, head, token, 1 + key])
                g = float(nudged.zeros.grad[0, head, token, 1 + key])
                wanted[key // 4, key % 4] += p * max(g, 0) / 4 / 9
    assert np.abs(found.map - wanted).max() < 1e-5 * wanted.max() < np.ptp(wanted)
    cosine = float(model(ids, pixels, use_itm_head=False).itm_score[0, 0].detach())
    assert found.similarity == pytest.approx(cosine, abs=1e-5)
    both = matcher.similarities(image, ["a cat", text])
    assert both[1] == pytest.approx(cosine, abs=1e-5)
    assert abs(both[0] - both[1]) > 1e-4
    attention: Any = matcher
    assert not attention._attention._forward_hooks


def test_a_blip_that_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Salesforce/blip-itm-large-coco"):
        open_matcher("blip-itm")
    with pytest.raises(Unavailable, match="cannot be loaded"):
        open_matcher("blip-itm", str(tmp_path))
    blip(tmp_path, layers=6)
    with pytest.raises(Unsupported, match="layer 6"):
        open_matcher("blip-itm", str(tmp_path))
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if "itm_head" not in k}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"incomplete.*itm_head"):
        open_matcher("blip-itm", str(tmp_path))


# GroundingDINO


def dino(folder: Path) -> Any:
    """A random GroundingDINO, saved with its processor."""
    torch.manual_seed(0)
    backbone = tf.SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    text = tf.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    config = tf.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_queries=20,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_text_len=16,
    )
    model = tf.GroundingDinoForObjectDetection(config).eval()
    model.save_pretrained(folder)
    images = tf.GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    words = words_of(tf.BertTokenizer, folder)
    tf.GroundingDinoProcessor(images, words).save_pretrained(folder)
    return model


def test_boxes_of_a_phrase(tmp_path: Path, picture: Any) -> None:
    model = dino(tmp_path)
    finder = open_finder(str(tmp_path))
    image = picture(90, 60)
    processor = tf.AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(images=image, text="red dog.", return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    scores = out.logits[0].sigmoid().max(-1).values
    cutoff = float(scores.sort().values[10])
    found = finder.find(image, "Red dog", cutoff, 0.0)
    order = [i for i in scores.argsort(descending=True).tolist() if scores[i] > cutoff]
    assert len(found) == len(order) == 9
    for box, index in zip(found, order, strict=True):
        x, y, w, h = out.pred_boxes[0, index].tolist()
        edges = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        assert box == pytest.approx([min(1, max(0, edge)) for edge in edges], abs=1e-5)
    second = float(scores.sort().values[-2])
    assert finder.find(image, "red dog", second, 0.0) == found[:1]
    assert finder.find(image, "red dog", cutoff, 1.0) == []
    assert finder.find(image, "red dog", 1.0, 0.0) == []


def test_dino_spots_each_phrase_where_it_is_part_of_a_label(tmp_path: Path, picture: Any) -> None:
    dino(tmp_path)
    finder, image = open_finder(str(tmp_path)), picture(90, 60)
    labelled = finder._labelled(image, "red dog. cat. zebra", 0.0, 0.0)
    found = finder.spot(image, ["Dog", "cat", "zebra"], 0.0)
    assert found[2] is None  # its tokenizer knows no zebra
    assert found == [*finder.spot(image, ["Dog"], 0.0), *finder.spot(image, ["cat"], 0.0), None]
    for own in found[:2]:
        assert own is not None
        assert len(own) <= len(labelled)
        assert [one.score for one in own] == sorted((one.score for one in own), reverse=True)
    assert finder.spot(image, [], 0.0) == []


def test_dino_scores_a_phrase_by_its_own_tokens(
    tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each phrase is asked alone; what its tokens score in a box makes its score there."""
    dino(tmp_path)
    finder: Any = open_finder(str(tmp_path))
    scores = {"dog": (0.6, 0.7), "cat": (0.05, 0.03), "red": (0.3, 0.1), "image": (0.01, 0.0)}
    asked = []

    class Fixed:
        device = "cpu"

        def __call__(self, input_ids: Tensor, **_: Any) -> Any:
            words = [WORDS[token] for token in input_ids[0].tolist()]
            asked.append(words[1:-1])
            p = torch.tensor([scores.get(word, (0.9, 0.9)) for word in words]).T
            out = {"logits": p.logit()[None], "pred_boxes": torch.full((1, 2, 4), 0.5)}
            return type("Out", (), out)

    monkeypatch.setattr(finder, "_model", Fixed())
    found = finder.spot(picture(90, 60), ["Dog", "cat", "red dog", "image"], 0.02)
    told = [[round(one.score, 3) for one in own] for own in found]
    assert told == [[0.7, 0.6], [0.05, 0.03], [0.6, 0.1], []]
    assert asked == [["dog", "."], ["cat", "."], ["red", "dog", "."], ["image", "."]]


def owl(folder: Path) -> Any:
    """A random OWLv2, saved with its processor."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = {**sizes, "vocab_size": 200, "num_attention_heads": 2, "max_position_embeddings": 16}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    config = tf.Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    model = tf.Owlv2ForObjectDetection(config).eval()
    model.save_pretrained(folder)
    return model


def test_owl_spots_phrases(tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes in shares of the picture, the surest first, each phrase its own."""
    from halu.grounding import owl as module

    class Processor:
        """Fixed ids for texts; pictures as OWLv2's own image processor takes them."""

        def __init__(self) -> None:
            self.images = tf.Owlv2ImageProcessorPil(size={"height": 64, "width": 64})

        def __call__(self, text: Any, images: Any, return_tensors: str) -> Any:
            self.asked = text
            ids = torch.arange(8).repeat(len(text[0]), 1) + torch.arange(len(text[0]))[:, None] + 1
            shown = self.images(images=images, return_tensors="pt")
            return tf.BatchEncoding(
                {**shown, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            )

        def post_process_grounded_object_detection(self, *args: Any, **kwargs: Any) -> Any:
            return self.images.post_process_object_detection(*args, **kwargs)

    model, processor = owl(tmp_path), Processor()
    monkeypatch.setattr(
        module.transformers.AutoProcessor, "from_pretrained", lambda source: processor
    )
    finder, image = open_finder(str(tmp_path), "owlv2"), picture(90, 60)
    found = finder.spot(image, ["Red dog", "cat"], 0.0)
    assert processor.asked == [["a photo of a red dog", "a photo of a cat"]]
    with torch.no_grad():
        out = model(**processor(text=processor.asked, images=image, return_tensors="pt"))
    scores = out.logits[0].sigmoid()
    for number, own in enumerate(found):
        assert own is not None
        wanted = sorted(scores[:, number].tolist(), reverse=True)
        assert [one.score for one in own] == pytest.approx(wanted, abs=1e-5)
        assert all(0 <= edge <= 1 for one in own for edge in one.box)
    cutoff = float(scores.median())
    kept = sum(len(own or ()) for own in finder.spot(image, ["Red dog", "cat"], cutoff))
    assert kept == int((scores > cutoff).sum())


def test_built_in_finders_see_the_built_in_world() -> None:
    for kind in ("tiny-llava", "tiny-qwen"):
        finder, right, boxes = open_finder(None, kind), 0, []
        for seed in range(10):
            scene = draw(seed, split="test")
            image, side = Image.fromarray(scene.image), scene.image.shape[0]
            thing = max(scene.things, key=lambda one: one.box[2] - one.box[0])
            (found, other) = finder.spot(image, [thing.name, "unicorn"], 0.5)
            assert other is None
            right += bool(found)
            if found:
                boxes.append(overlap(found[0].box, Box(*(edge / side for edge in thing.box))))
            assert finder.find(image, thing.name, 0.5, 0.0) == [one.box for one in found or ()]
        assert right >= 7
        assert np.mean(boxes) > 0.3


def test_boxes_go_around_connected_patches() -> None:
    from halu.grounding.patches import sightings

    p = np.zeros((4, 4), np.float32)
    p[0, 0], p[1, 0], p[1, 1], p[3, 3], p[2, 2] = 0.6, 0.9, 0.7, 0.8, 0.1
    first, second = sightings(p, 0.5)
    assert (first.box, second.box) == (Box(0, 0, 0.5, 0.5), Box(0.75, 0.75, 1, 1))
    assert (first.score, second.score) == (pytest.approx(0.9), pytest.approx(0.8))


def test_a_detector_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="IDEA-Research/grounding-dino-tiny"):
        open_finder()
    with pytest.raises(Unavailable, match="cannot be loaded"):
        open_finder(str(tmp_path))
    with pytest.raises(Unavailable, match="google/owlv2"):
        open_finder(None, "owlv2")


# Boxes, nouns


def test_boxes() -> None:
    one = Box(0.2, 0.2, 0.6, 0.4)
    assert overlap(one, one) == pytest.approx(1)
    assert overlap(one, Box(0.6, 0.2, 0.8, 0.4)) == 0
    assert overlap(one, Box(0.4, 0.2, 0.8, 0.4)) == pytest.approx(1 / 3)
    near = Box(0.2, 0.2, 0.6, 0.42)
    assert distinct([one, near, Box(0, 0, 0.05, 0.05)], 0.01, 0.6) == [one]
    assert distinct([one, near], 0.01, 0.95) == [one, near]
    assert grown(Box(0.1, 0.2, 0.3, 0.6), 1.0) == pytest.approx((0, 0, 0.4, 0.8))
    heat = np.array([[0.1, 0.6, 0.2], [0.0, 1.0, 0.5]])
    assert around(heat, 0.5) == pytest.approx((1 / 3, 0, 1, 1))
    assert around(heat, 1.0) == pytest.approx((1 / 3, 0.5, 2 / 3, 1))


def test_a_crop_shows_what_its_box_names() -> None:
    image = Image.new("RGB", (100, 50))
    image.paste((255, 0, 0), (20, 10, 60, 20))
    crop = cut(image, Box(0.2, 0.2, 0.6, 0.4))
    assert crop.size == (40, 10)
    assert crop.getcolors() == [(400, (255, 0, 0))]
    assert cut(image, Box(0, 0, 1, 1)).size == (100, 50)
    assert cut(image, Box(0.999, 0.5, 1, 0.5)).size == (3, 3)  # no slivers


@pytest.mark.parametrize(
    ("word", "noun"),
    [
        (" dog", True),
        ("Dogs,", True),
        ("building", True),
        ("bed", True),
        ("glasses", True),
        ("refrigerator.", True),
        ("is", False),
        ("The", False),
        ("sitting", False),
        ("surrounded", False),
        ("red", False),
        ("slowly", False),
        ("2023", False),
        ("it", False),
        ("", False),
        ("...", False),
    ],
)
def test_nouns(word: str, noun: bool) -> None:
    assert is_noun(word) is noun


def test_singular() -> None:
    assert [singular(word) for word in (" Dogs.", "glass", "bus", "cat")] == [
        *("dog", "glass", "bu", "cat")
    ]
