"""What Flow-DPO must beat: plain fine-tuning on the films that it chose, for as many steps.

Each stage trains on the better film of every pair that runs/toy/flow_dpo had in that stage, with
the loss of pretraining, in batches and for a number of steps like there. The worse films are not
looked at, and there is no reference. It is measured as that run is (runs/toy/chosen_sft/
stages.json). Nothing ends it early, so that the steps stay equal; if that run ended early, give
--set preferences.stages=N, the last stage that counts there.

Command:  skyreels-jax train --config configs/toy/chosen_sft.py   (after flow_dpo.py)
          All beside each other, on 256 held-out captions with 3 seeds each:
          skyreels-jax evaluate --benchmark motion --guidance_scale 1 --inference_steps 15 \\
              --outdir eval/motion \\
              --setting "before: model=runs/toy/found/export" \\
              --setting "Flow-DPO: model=runs/toy/flow_dpo/export" \\
              --setting "chosen films: model=runs/toy/chosen_sft/export" \\
              --setting "beta 1000: model=runs/toy/flow_dpo_beta1000/export"
Hardware: 2 CPU cores, float32; 10 minutes on one of them, beside other work.
Result:   runs/toy/chosen_sft/export, a diffusers SkyReelsV2Pipeline folder, whose errors of motion
          were 27 % lower than before (docs/motion_rl.md).
"""

import pathlib

import ml_collections

from skyreels_jax.cli.train import read_config

FLOW_DPO = pathlib.Path(__file__).with_name("flow_dpo.py")


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict(read_config(str(FLOW_DPO)))
    config.preferences.films = config.out
    config.out = "runs/toy/chosen_sft"
    config.objective = {"name": "chosen", "velocity": config.objective.velocity}
    config.preferences.guards.update({"adherence": 1.0, "consistency": 1.0, "quality": 99.0})
    return config
