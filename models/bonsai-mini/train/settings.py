"""Every size and seed of the model and its training in one place."""

import os
from pathlib import Path

RUN = Path(os.environ.get("BONSAI_MINI_RUN", Path(__file__).resolve().parent.parent / "run"))

# Training pictures per size (width, height). Scene i of a size is drawn from seed SCENE_SEED[size] + i.
BUCKETS = {(256, 256): 20000, (320, 224): 5000, (224, 320): 5000}
SCENE_SEED = {(256, 256): 0, (320, 224): 1_000_000, (224, 320): 2_000_000}
SIZE = (256, 256)
VALIDATION_SEED = 9_000_000  # scenes no training ever sees
VALIDATION = 1000

# FLUX.2's structure in small widths: each level but the coarsest halves the side, and two latents by two are a token.
VAE = dict(
    block_out_channels=(16, 32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=1, latent_channels=32, norm_num_groups=2, sample_size=128,
)
PIXELS_PER_TOKEN = 16

TEXT_LENGTH = 48
TAPS = (1, 2, 3)
VOCABULARY = 704
# The last tap lies below the last layer, so the final norm touches none of them; layer 4 is never run.
TEXT = dict(
    hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
    max_position_embeddings=512, tie_word_embeddings=True, rms_norm_eps=1e-6, attention_bias=False,
)
ROPE_THETA = 1e6

TRANSFORMER = dict(
    patch_size=1, in_channels=128, num_layers=2, num_single_layers=4, attention_head_dim=128, num_attention_heads=2,
    joint_attention_dim=384, guidance_embeds=False, axes_dims_rope=(32, 32, 32, 32), rope_theta=2000, mlp_ratio=3.0,
    timestep_guidance_channels=256, eps=1e-6,
)
