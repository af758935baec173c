"""Architectures of timm, as they come."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from tests.zoo.case import Network, images


def _make(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
        return timm.create_model(name, num_classes=10, **settings)

    return make


def _free(name: str, side: int = 64, other: int = 96, *, light: bool = False, **settings: Any) -> Network:
    """A network that takes images of any size."""
    return Network(f"timm/{name}", _make(name, **settings), images(side), images(other, 3), light, "timm")


def _fixed(name: str, side: int = 64, **settings: Any) -> Network:
    """A network that takes images of one size."""
    made = _make(name, img_size=side, **settings)
    return Network(f"timm/{name}", made, images(side), images(side, 3), needs="timm")


NETWORKS = (
    _free("mobilenetv3_small_050", light=True),
    _free("mobilenetv4_conv_small"),
    _free("efficientnet_lite0"),
    _free("tf_efficientnetv2_b0"),
    _free("tinynet_e", light=True),
    _free("lcnet_050", light=True),
    _free("fbnetc_100"),
    _free("mixnet_s"),
    _free("hardcorenas_a"),
    _free("ghostnet_100"),
    _free("ghostnetv2_100"),
    _free("repghostnet_050"),
    _free("repvgg_a0"),
    _free("mobileone_s0"),
    _free("resnet10t"),
    _free("resnet26d"),
    _free("legacy_seresnet18"),
    _free("ecaresnet26t"),
    _free("skresnet18"),
    _free("res2net50_26w_4s"),
    _free("dla34"),
    _free("hrnet_w18_small"),
    _free("ese_vovnet19b_dw"),
    _free("cspresnet50"),
    _free("darknet53"),
    _free("regnety_002"),
    _free("rexnet_100"),
    _free("selecsls42"),
    _free("dpn48b"),
    _free("xception41"),
    _free("hgnetv2_b0"),
    _free("starnet_s1"),
    _free("nf_resnet26"),
    _free("resnetv2_50"),
    _free("convnextv2_atto"),
    _free("inception_next_atto"),
    _free("edgenext_xx_small"),
    _free("fastvit_t8"),
    _free("poolformer_s12"),
    _free("convformer_s18"),
    _free("mobilevit_xxs"),
    _free("mobilevitv2_050"),
    _free("pvt_v2_b0"),
    _free("efficientvit_b0"),
    _fixed("vit_tiny_patch16_224"),
    _fixed("deit_tiny_patch16_224"),
    _fixed("swin_tiny_patch4_window7_224", window_size=4),
    _fixed("cait_xxs24_224"),
    _fixed("mixer_s32_224"),
    _fixed("resmlp_12_224"),
    _fixed("gmlp_s16_224"),
    _fixed("coat_lite_tiny"),
    _fixed("xcit_nano_12_p16_224"),
)
