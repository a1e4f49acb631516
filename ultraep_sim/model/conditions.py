"""How much GPUs of one kind differ, how often they slow down, and how often one is lost.

Defaults of a scenario's ``stragglers``; a scenario overrides each of them.
"""

from __future__ import annotations

from ultraep_sim.model.provenance import assumed, datasheet, published

_SINHA = (
    "Sinha et al., Not All GPUs Are Created Equal (SC 2022): over five clusters performance varies"
    " by 8 % on average and by up to 22 % at worst; read as the distance between box-plot"
    " whiskers, as a share of the median"
)
_FAIL_SLOW = "published reports of fail-slow GPUs in training: 1.3 to 3 times slower, 30 s to 10 h"

#: Distance between the whiskers (99.3 % of GPUs lie between them) over the median.
SPREAD_BAND = published(0.08, "1", _SINHA, 0.0, 0.22)

#: Whisker distance of a normal distribution in standard deviations: quartiles at 0.6745, whiskers
#: 1.5 interquartile ranges beyond them.
WHISKERS_SD = 2 * 0.6744897501960817 * (1 + 1.5 * 2)

SLOW_HOST_FRACTION = published(
    0.005, "1", "reports of large training runs: about 0.5 % of hosts are persistently slow"
)
SLOW_HOST_FACTOR = published(1.1, "1", "the same reports: such hosts are about 10 % slower")
GPUS_PER_HOST = datasheet(4, "1", "GB200 and GB300 compute tray: 4 GPUs; 8 in an HGX host")
SWITCH_PLANES = datasheet(
    18, "1", "GB200 NVL72: 18 NVLinks a GPU, one to each of 18 switch chips; 4 chips in HGX H100"
)

THERMAL_RATE_PER_H = assumed(
    1e-4,
    "1",
    "episodes per GPU and hour; reports give no rate: 1.6 an hour at 16k GPUs",
    1e-5,
    4e-3,
)
THERMAL_FACTOR_LOW = published(1.3, "1", _FAIL_SLOW)
THERMAL_FACTOR_HIGH = published(3.0, "1", _FAIL_SLOW)
THERMAL_SHORTEST = published(30, "s", _FAIL_SLOW)
THERMAL_LONGEST = published(36_000, "s", _FAIL_SLOW)

JITTER_SIGMA = assumed(
    0.02, "1", "kernels repeated on one healthy GPU differ by a few per cent", 0.0, 0.1
)

#: Of one GPU.
MEAN_TIME_BETWEEN_FAILURES = published(
    54 * 86_400 * 16_384 / 419,
    "s",
    "Llama 3 pre-training (arXiv 2407.21783): 419 unexpected interruptions in 54 days on 16,384 "
    "GPUs, one in about 3 h",
)
CHECKPOINT_EVERY = assumed(100, "1", "iterations between checkpoints", 10, 1000)
CHECKPOINT_TIME = assumed(10, "s", "training stands still while a checkpoint is taken", 0, 120)
RESTART_TIME = assumed(
    600, "s", "finding the fault, swapping the GPU, starting again and loading", 60, 3600
)
