"""SkyReels V1 image to video: HunyuanVideo with the picture's latents as 16 further channels of the first frame."""

from __future__ import annotations

from typing import ClassVar

from rushes.families.parameters import SampleParameters
from rushes.families.rows.hunyuan import SKYREELS_V1_I2V
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.hunyuan.decode import encode_hunyuan
from rushes_service.models.hunyuan.t2v import LATENT_CHANNELS, HunyuanVideo
from rushes_service.models.inputs.images import check_images, fit, open_image, to_signed


class SkyReelsImageToVideo(HunyuanVideo):
    """skyreels-v1-i2v."""

    spec: ClassVar[ArchitectureSpec] = SKYREELS_V1_I2V
    pipelines = ("HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideoPipeline")
    input_channels = (2 * LATENT_CHANNELS,)

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        super().check(parameters)
        check_images([str(parameters.image_path)], "image_path")

    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        picture = open_image(str(parameters.image_path), "image_path")
        pixels = to_signed(fit(picture, parameters.width, parameters.height))[None, :, None]
        # The reference tiles this encode always, by default at 256 pixels.
        tiled = vae.model_copy(update={"tiling": True})
        posterior = encode_hunyuan(self.vae, pixels.to(self.vae.device, self.vae.dtype), tiled)
        # The reference draws it from the global generator, which it seeds alike.
        drawn = posterior.sample(self.noise_generator(parameters.seed))
        first = drawn * self.vae.config.scaling_factor
        frames = (parameters.frame_count - 1) // 4 + 1
        image_latents = first.new_zeros(1, LATENT_CHANNELS, frames, *first.shape[-2:])
        image_latents[:, :, :1] = first
        return {**conditioning, "image_latents": image_latents}
