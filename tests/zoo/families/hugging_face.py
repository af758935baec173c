"""Architectures of Hugging Face's transformers, small, with random weights. They take mappings and give mappings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.case import Network, images, noise, tokens

WORDS = 96
SMALL = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 64}
PICTURE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def _make(model: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
        return getattr(transformers, model)(getattr(transformers, config)(**settings))

    return make


def _sentences(length: int, count: int) -> dict[str, Tensor]:
    mask = torch.ones(count, length, dtype=torch.int64)
    mask[0, length - 2 :] = 0
    return {"input_ids": tokens(length, count, WORDS), "attention_mask": mask}


def _text(model: str, config: str, **settings: Any) -> Network:
    made = _make(model, config, **settings)
    return Network(
        f"transformers/{model}",
        made,
        lambda: _sentences(12, 2),
        lambda: _sentences(17, 3),
        light=True,
        needs="transformers",
    )


def _seen(model: str, config: str, side: int, other: int = 0, **settings: Any) -> Network:
    made = _make(model, config, **settings)

    def pixels(side: int, count: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: {"pixel_values": images(side, count)()}

    return Network(
        f"transformers/{model}", made, pixels(side, 2), pixels(other or side, 3), light=True, needs="transformers"
    )


def _heard(model: str, config: str, **settings: Any) -> Network:
    def waves(length: int, count: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: {"input_values": noise(count, length)()}

    made = _make(model, config, **settings)
    return Network(f"transformers/{model}", made, waves(1600, 2), waves(2000, 3), light=True, needs="transformers")


def _between(model: str, config: str, **settings: Any) -> Network:
    """An encoder and a decoder of text."""

    def pairs(length: int, count: int) -> dict[str, Tensor]:
        return {**_sentences(length, count), "decoder_input_ids": tokens(length - 3, count, WORDS)}

    made = _make(model, config, **settings)
    return Network(
        f"transformers/{model}", made, lambda: pairs(12, 2), lambda: pairs(17, 3), light=True, needs="transformers"
    )


def _whisper() -> Network:
    settings = {
        "vocab_size": WORDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 8,
        "max_source_positions": 20, "max_target_positions": 20, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 1, "decoder_start_token_id": 1,
    }  # fmt: skip

    def heard(length: int, count: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: {"input_features": noise(count, 8, 40)(), "decoder_input_ids": tokens(length, count, WORDS)}

    made = _make("WhisperForConditionalGeneration", "WhisperConfig", **settings)
    return Network("transformers/Whisper", made, heard(6, 2), heard(9, 3), light=True, needs="transformers")


def _clip() -> Network:
    text = {**TEXT, "hidden_size": 32}
    vision = {**PICTURE, "image_size": 32, "patch_size": 8}

    def both(length: int, count: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: {**_sentences(length, count), "pixel_values": images(32, count)()}

    made = _make("CLIPModel", "CLIPConfig", text_config=text, vision_config=vision, projection_dim=16)
    return Network("transformers/CLIPModel", made, both(12, 2), both(12, 2), light=True, needs="transformers")


def _detr() -> Network:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
        backbone = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], out_features=["stage4"]
        )
        config = transformers.DetrConfig(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, backbone=None,
            d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=5, num_labels=3,
        )  # fmt: skip
        return transformers.DetrForObjectDetection(config)

    def pixels(side: int, count: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: {"pixel_values": images(side, count)()}

    return Network(
        "transformers/DetrForObjectDetection", make, pixels(64, 2), pixels(96, 3), light=True, needs="transformers"
    )


NETWORKS = (
    _text("BertModel", "BertConfig", **TEXT),
    _text("BertForSequenceClassification", "BertConfig", num_labels=3, **TEXT),
    _text("DistilBertForSequenceClassification", "DistilBertConfig", vocab_size=WORDS, dim=32, n_layers=2, n_heads=4,
          hidden_dim=64, max_position_embeddings=64),
    _text("RobertaForSequenceClassification", "RobertaConfig", **TEXT),
    _text("AlbertForSequenceClassification", "AlbertConfig", embedding_size=16, **TEXT),
    _text("ElectraForSequenceClassification", "ElectraConfig", embedding_size=16, **TEXT),
    _text("DebertaV2ForSequenceClassification", "DebertaV2Config", **TEXT),
    _text("MobileBertForSequenceClassification", "MobileBertConfig", embedding_size=16, intra_bottleneck_size=16,
          **TEXT),
    _text("GPT2LMHeadModel", "GPT2Config", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64,
          use_cache=False),
    _text("OPTForCausalLM", "OPTConfig", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, ffn_dim=64,
          num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=32, use_cache=False),
    _text("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, use_cache=False, **TEXT),
    _text("MistralForCausalLM", "MistralConfig", num_key_value_heads=2, use_cache=False, **TEXT),
    _text("Qwen2ForCausalLM", "Qwen2Config", num_key_value_heads=2, use_cache=False, **TEXT),
    _text("GemmaForCausalLM", "GemmaConfig", num_key_value_heads=2, head_dim=8, use_cache=False, **TEXT),
    _text("PhiForCausalLM", "PhiConfig", use_cache=False, **TEXT),
    _text("GPTNeoXForCausalLM", "GPTNeoXConfig", use_cache=False, **TEXT),
    _between("T5ForConditionalGeneration", "T5Config", vocab_size=WORDS, d_model=32, d_kv=8, d_ff=64, num_layers=2,
             num_heads=4, use_cache=False),
    _between("BartForConditionalGeneration", "BartConfig", vocab_size=WORDS, d_model=32, encoder_layers=2,
             decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
             decoder_ffn_dim=64, max_position_embeddings=64, use_cache=False, pad_token_id=0, bos_token_id=1,
             eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=1),
    _seen("ViTForImageClassification", "ViTConfig", 32, image_size=32, patch_size=8, **PICTURE),
    _seen("DeiTForImageClassification", "DeiTConfig", 32, image_size=32, patch_size=8, **PICTURE),
    _seen("SwinForImageClassification", "SwinConfig", 32, image_size=32, patch_size=2, embed_dim=16, depths=[1, 1],
          num_heads=[2, 4], window_size=4),
    _seen("ConvNextForImageClassification", "ConvNextConfig", 64, 96, hidden_sizes=[8, 16, 24, 32],
          depths=[1, 1, 1, 1]),
    _seen("ResNetForImageClassification", "ResNetConfig", 64, 96, embedding_size=8, hidden_sizes=[8, 16, 24, 32],
          depths=[1, 1, 1, 1]),
    _seen("MobileViTForImageClassification", "MobileViTConfig", 64, 96, hidden_sizes=[16, 24, 32],
          neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32]),
    _seen("SegformerForSemanticSegmentation", "SegformerConfig", 64, 96, hidden_sizes=[8, 16, 24, 32],
          depths=[1, 1, 1, 1], decoder_hidden_size=16, num_attention_heads=[1, 2, 2, 4]),
    _seen("YolosForObjectDetection", "YolosConfig", 32, image_size=[32, 32], patch_size=8, num_detection_tokens=5,
          **PICTURE),
    _detr(),
    _clip(),
    _heard("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", conv_dim=[16, 16], conv_stride=[5, 4],
           conv_kernel=[10, 8], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, classifier_proj_size=16,
           num_feat_extract_layers=2, **{k: v for k, v in TEXT.items() if k != "max_position_embeddings"}),
    _whisper(),
)  # fmt: skip
