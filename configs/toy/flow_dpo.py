"""Motion learning: the miniature ranks its own films by a reward and learns from the pairs.

Three stages; in each it makes 8 films for each of 96 captions (half of them balanced over
subjects, half over ways to move), puts the best against the worst, trains until it tells them apart
no better than before, and then is its own reference. Every stage is measured on held-out captions
by the reward and by the judge (runs/toy/flow_dpo/stages.json), and the run ends when something else
than motion has suffered.

Command:  skyreels-jax train --config configs/toy/flow_dpo.py   (after found.py and reward.py)
          At any point it can be stopped and given again.
          What it changed, on 256 held-out captions with 3 seeds each:
          skyreels-jax evaluate --benchmark motion --guidance_scale 1 --inference_steps 15 \\
              --outdir eval/flow_dpo \\
              --setting "before: model=runs/toy/found/export" \\
              --setting "after: model=runs/toy/flow_dpo/export"
Hardware: 2 CPU cores, float32: 36 minutes, of which the films take two thirds.
Result:   runs/toy/flow_dpo/export, a diffusers SkyReelsV2Pipeline folder, and the run of each stage
          in stage_1 to stage_3, from which others can start. The export lies four fifths of the way
          from the start model to the last stage: errors of motion (direction, speed, distance from
          a law, outline) were 35 % lower there, adherence 5 points higher, consistency 6, quality 1
          dB (docs/motion_rl.md). Another share, of a finished run: --export_only --set
          preferences.share=1.

To compare with: plain fine-tuning on the chosen films (chosen_sft.py), and other strengths.
          skyreels-jax train --config configs/toy/flow_dpo.py --set objective.beta=1000 \\
              --set preferences.films=runs/toy/flow_dpo --out runs/toy/flow_dpo_beta1000
          skyreels-jax train --config configs/toy/flow_dpo.py --set objective.beta=62.5 \\
              --set preferences.films=runs/toy/flow_dpo --out runs/toy/flow_dpo_beta62
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

START = pathlib.Path(__file__).with_name("found.py")


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(START)))
    config.kind = "flow_dpo"
    config.start = config.out
    config.out = "runs/toy/flow_dpo"
    # Of a mean squared error. With 100 (that of image models with adapters) both sides of every
    # pair become worse by several times what tells them apart, and films with them (docs/log.md).
    config.objective = {"name": "flow_dpo", "beta": 250.0, "velocity": config.objective}
    config.data = {"vae": config.data.vae}  # its clips are its own films
    config.stages = ({"steps": 96, "batch": 8},)  # at most, and pairs
    config.optimizer.learning_rate = config.optimizer.adam_learning_rate = 1e-4
    config.optimizer.warmup_steps = 20
    config.optimizer.decay_start = 1.0  # a stage ends when it is flat, not at a known step
    fixed = {"paths": "text_encoder/.*", "frozen": True}
    config.optimizer.policies = (fixed, *config.optimizer.policies)
    config.ema_decay = 0.98
    config.save_every = 50
    config.preferences = {
        "reward": "skyreels_jax.models.reward.load:load_reward runs/toy/reward",
        "stages": 3,
        "prompts": 48,
        "films_per_prompt": 8,
        "batch_size": 16,
        "inference_steps": 15,
        # Films of the very model that is trained. With guidance those of a caption hardly differ:
        # there is a quarter as much to choose from, at twice the price (docs/log.md).
        "guidance_scale": 1.0,
        # Backgrounds suffer from the last fifth of the way more than motion gains (docs/log.md).
        "share": 0.8,
        # Films that move better have less steady backgrounds, by 1.7 points of consistency in the
        # pairs of a first stage, and the model would learn that as well (docs/log.md).
        "not_worse": {"adherence": 0.1, "consistency": 0.0, "quality": 3.0},
        # 12 steps see every pair once; the mean of 24 has an error of 3 points.
        "plateau": {"window": 24, "patience": 1, "gain": 0.02, "floor": 0.6},
        "guards": {"films": 128, "adherence": 0.02, "consistency": 0.02, "quality": 1.0},
    }
    return config
